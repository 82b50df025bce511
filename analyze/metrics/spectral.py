"""Declared metrics of a spectrum: those of the paper, their variants, and what others use.

Each is a function of a `Spectrum`. With no variance at all no dimension is in use: counts of
dimensions and shares are 0, what has no value there is NaN. Rows that hold infinities or NaN
make every number NaN.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from lpp.analyze.metrics.metric import Metric
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.spectrum import (
    Spectrum,
    effective_rank,
    ratio_of_sums,
    rounding,
    top_share,
)
from lpp.analyze.quantities.quantity import FROM_0

ALPHA_FIRST: Final = 11
ALPHA_LAST: Final = 100
ALPHA_POINTS: Final = 10
"""Ranks that `alpha_req` fits, and how few are too few: the first ten are outliers of the law,
and the upper half of r eigenvalues falls off it because the sample is finite."""

_PAPER: Final = "arXiv 2605.30018"


def stable_rank(eigenvalues: Floats, /) -> float:
    """Sum over largest eigenvalue, (r,) descending: 1 to r dimensions.

    >>> stable_rank(np.array([2.0, 1.0, 1.0]))
    2.0
    """
    return 0.0 if eigenvalues.sum() == 0 else float(eigenvalues.sum() / eigenvalues.max())


def rankme(eigenvalues: Floats, /) -> float:
    """Exponential of the entropy of the singular values of centred rows, in dimensions.

    >>> round(rankme(np.array([9.0, 1.0])), 6)  # singular values 3 and 1
    1.754765
    """
    return effective_rank(np.sqrt(eigenvalues))


def power_law(eigenvalues: Floats, /) -> tuple[float, float]:
    """Exponent alpha of lambda_i ~ i^-alpha and R^2 of its fit, ln against ln, least squares.

    eigenvalues: (r,), descending. Fitted at i from 11 to min(100, r / 2). NaN for fewer than
    ten such i, and where an eigenvalue among them is 0: within the rounding of a solve, that is.

    >>> alpha, r2 = power_law(np.arange(1.0, 201.0) ** -1.5)
    >>> round(alpha, 9), round(r2, 9)
    (1.5, 1.0)
    """
    last = min(ALPHA_LAST, len(eigenvalues) // 2)
    fitted = eigenvalues[ALPHA_FIRST - 1 : last]
    if len(fitted) < ALPHA_POINTS or not (fitted > rounding(eigenvalues)).all():
        return float("nan"), float("nan")
    x, y = np.log(np.arange(ALPHA_FIRST, last + 1)), np.log(fitted)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    explained, spread = slope * slope * float(x @ x), float(y @ y)
    return -slope, explained / spread if spread else float("nan")


def column_share(variances: Floats, count: int, /) -> float:
    """Share of the `count` columns of highest variance in the sum, (d,) in any order.

    >>> column_share(np.array([1.0, 6.0, 3.0]), 2)
    0.9
    """
    total = variances.sum()
    return 0.0 if total == 0 else float(np.sort(variances)[::-1][:count].sum() / total)


def _participation_ratio(s: Spectrum) -> float:
    return ratio_of_sums(s.total, s.sum_squares, s.rank_bound)


def _effective_rank(s: Spectrum) -> float:
    # Never below the participation ratio, which rounding could make it for a flat spectrum.
    # The NaN of rows that are not finite is kept, whichever of the two has it.
    return float(np.maximum(effective_rank(s.solved), _participation_ratio(s)))


def _log(value: float) -> float:
    """`ln value`; NaN where there is no variance to have an entropy."""
    return float(np.log(value)) if value > 0 else float("nan")


def _normalised(metric: Metric[Spectrum], trap: str) -> Metric[Spectrum]:
    """`metric` over r = min(N, d); 0 where there are no rows at all."""
    compute = metric.compute
    return replace(
        metric,
        name=f"{metric.name}_norm",
        label=f"{metric.words}, normalised",
        short=f"{metric.short} / r",
        unit="share",
        share_of="min(N, d)",
        definition=f"{metric.name} / min(N, d)",
        trap=trap,
        normalises=metric.name,
        compute=lambda s: compute(s) / max(s.rank_bound, 1),
    )


_PR: Final = Metric[Spectrum](
    name="participation_ratio",
    short="PR",
    unit="dimensions",
    definition="(sum lambda)^2 / sum lambda^2",
    source=_PAPER,
    trap="A few attention sinks bring the ratio near 1 at most sites (flag `sink`). The ratio "
    "grows with the number of prompts.",
    needs="scatter",
    compute=_participation_ratio,
)
_ER: Final = Metric[Spectrum](
    name="effective_rank",
    short="ER",
    unit="dimensions",
    definition="exp(-sum pi ln pi), pi = lambda / sum lambda",
    source="Roy and Vetterli 2007; arXiv 2605.30018",
    trap="Grows with the number of prompts: compare at equal N. Attention sinks lower the rank.",
    needs="eigenvalues",
    compute=_effective_rank,
)
_ZSCORE_PR: Final = replace(
    _PR,
    name="zscore_participation_ratio",
    short="zPR",
    definition="participation ratio of the correlation matrix: each column divided by its "
    "standard deviation (if below 1e-8: by 1)",
    trap="A column of rounding noise weighs as much as any other.",
    matrix="correlation",
    ratio="zscore_participation_ratio",
)
_ZSCORE_ER: Final = replace(
    _ER,
    name="zscore_effective_rank",
    short="zER",
    definition="effective rank of the correlation matrix",
    trap="As for `zscore_participation_ratio`.",
    matrix="correlation",
    ratio="zscore_participation_ratio",
)

PAPER: Final = (
    _PR,
    _ER,
    _normalised(
        _PR,
        "If N < d, the divisor is N, so the share falls as the sample grows (flag `normaliser`).",
    ),
    _normalised(
        _ER,
        "Varies mostly as 1/d between models. If N < d, the divisor is N (flag `normaliser`).",
    ),
    Metric[Spectrum](
        name="top_share",
        unit="share",
        definition="largest lambda / sum lambda",
        source=_PAPER,
        trap="A share near 1 often comes from one or two attention sinks.",
        needs="eigenvalues",
        compute=lambda s: top_share(s.solved),
    ),
)
"""The value columns of the spectra table, in its order."""

SPECTRAL: Final = (
    *PAPER,
    _ZSCORE_PR,
    _ZSCORE_ER,
    _normalised(
        _ZSCORE_PR,
        "As for `participation_ratio_norm`.",
    ),
    _normalised(
        _ZSCORE_ER,
        "As for `effective_rank_norm`.",
    ),
    Metric[Spectrum](
        name="top1_column_share",
        unit="share",
        definition="largest column variance / sum of all column variances",
        source=_PAPER,
        trap="A rotation of the rows changes the share, but not `participation_ratio`.",
        needs="scatter",
        compute=lambda s: column_share(s.variances, 1),
    ),
    Metric[Spectrum](
        name="top5_column_share",
        unit="share",
        definition="sum of the five largest column variances / sum of all column variances",
        source=_PAPER,
        trap="As for `top1_column_share`.",
        needs="scatter",
        compute=lambda s: column_share(s.variances, 5),
    ),
    Metric[Spectrum](
        name="outlier_severity",
        short="gamma",
        unit="1",
        definition="|mu| / |sigma|: norm of the mean row / norm of the column standard "
        "deviations. Missing if no column varies",
        source="arXiv 2605.31518",
        trap="Attention sinks hide it: use --skip-first.",
        bounds=FROM_0,
        needs="scatter",
        compute=lambda s: s.mean_norm / s.total**0.5 if s.total else float("nan"),
    ),
    Metric[Spectrum](
        name="stable_rank",
        unit="dimensions",
        definition="sum lambda / largest lambda: ||X||_F^2 / ||X||_2^2, X centred",
        source="Rudelson and Vershynin 2007",
        trap="The largest eigenvalue dominates it: near 1 with an attention sink.",
        needs="eigenvalues",
        compute=lambda s: stable_rank(s.solved),
    ),
    Metric[Spectrum](
        name="rankme",
        unit="dimensions",
        definition="exp(-sum p ln p), p = s / sum s, s = sqrt(lambda): singular values of the "
        "centred X. The paper does not centre X, and adds 1e-7 to p",
        source="Garrido et al. 2023, arXiv 2210.02885",
        trap="Never compare RankMe with `effective_rank`, which uses eigenvalues.",
        needs="eigenvalues",
        compute=lambda s: rankme(s.solved),
    ),
    Metric[Spectrum](
        name="alpha_req",
        unit="1",
        definition="alpha of lambda_i ~ i^-alpha: unweighted least squares of ln lambda_i on ln "
        f"i, i from 11 to min(100, r / 2), r = min(N, d). Missing with fewer than {ALPHA_POINTS} "
        "points, or if a fitted lambda_i is 0. The paper weights rank i by 1 / i",
        source="Agrawal et al. 2022 (alpha-ReQ)",
        trap="Any spectrum has a fitted alpha: check the quality of the fit, `alpha_req_r2`.",
        needs="eigenvalues",
        compute=lambda s: power_law(s.solved)[0],
    ),
    Metric[Spectrum](
        name="alpha_req_r2",
        unit="share",
        definition="R^2 of the fit of alpha_req",
        source="Agrawal et al. 2022 (alpha-ReQ)",
        trap="R^2 is high for any smooth curve: a high value does not prove a power law.",
        needs="eigenvalues",
        compute=lambda s: power_law(s.solved)[1],
    ),
    Metric[Spectrum](
        name="renyi2_entropy",
        unit="nats",
        definition="-ln sum pi^2, pi = lambda / sum lambda: Renyi entropy of order 2 of the "
        "covariance / its trace. Equals ln participation_ratio; missing if the rows do not vary. "
        "The paper uses an uncentred kernel matrix of the rows, its diagonal scaled to 1 / N",
        source="Sanchez Giraldo et al. 2014, arXiv 1211.2459",
        trap="This entropy adds no evidence to the participation ratio.",
        needs="scatter",
        compute=lambda s: _log(_participation_ratio(s)),
    ),
    Metric[Spectrum](
        name="von_neumann_entropy",
        unit="nats",
        definition="-sum pi ln pi, pi = lambda / sum lambda: Renyi entropy of order 1 of the "
        "matrix in renyi2_entropy. Equals ln effective_rank; missing if the rows do not vary",
        source="Sanchez Giraldo et al. 2014, arXiv 1211.2459",
        trap="This entropy adds no evidence to the effective rank.",
        needs="eigenvalues",
        compute=lambda s: _log(_effective_rank(s)),
    ),
)
"""Every metric of a spectrum."""
