"""Declared metrics that need the rows: what no scatter matrix of them can tell.

Each says what is kept of the rows while they are read (`measure`), so that memory stays bounded
however many there are.
"""

from dataclasses import replace
from typing import Final

from lpp.analyze.metrics.anisotropy import PairwiseCosines
from lpp.analyze.metrics.metric import UNBOUNDED, Metric
from lpp.analyze.metrics.neighbours import MAX_ROWS, NeighbourSamples, two_nn
from lpp.analyze.metrics.prompt_ranks import PromptRanks
from lpp.analyze.metrics.robust import RobustSpectra
from lpp.analyze.metrics.spectral import PAPER
from lpp.analyze.metrics.trajectory import Curvatures
from lpp.analyze.metrics.twins import NO_TWIN, RankDifferences
from lpp.analyze.numerics.moments import Rows
from lpp.analyze.numerics.spectrum import Spectrum

_WEI: Final = "Wei et al. 2024 (Diff-eRank), arXiv 2401.17139"
_PAPER: Final = {metric.name: metric for metric in PAPER}


def _robust(name: str, definition: str) -> Metric[Spectrum]:
    """A metric of the paper on the spectrum of clipped rows."""
    return replace(
        _PAPER[name],
        name=f"robust_{name}",
        definition=definition,
        source="arXiv 2605.30018",
        needs="rows",
        measure=RobustSpectra,
        ratio="robust_participation_ratio",
        no_error="a group left out changes what is clipped: two more reads for each",
    )


def _same(value: float) -> float:
    """The measurement is the number."""
    return value


_CLIPPED: Final = (
    "of X^T X / (N - 1), X centred, its 5 columns of highest variance then clipped at +-3 of "
    "their standard deviations, not centred again"
)

ROW_METRICS: Final = (
    _robust("participation_ratio", f"(sum lambda)^2 / sum lambda^2 {_CLIPPED}"),
    _robust("effective_rank", f"exp(-sum pi ln pi), pi = lambda / sum lambda, {_CLIPPED}"),
    _robust("participation_ratio_norm", "robust_participation_ratio / min(N, d)"),
    _robust("effective_rank_norm", "robust_effective_rank / min(N, d)"),
    Metric[Rows](
        name="two_nn",
        unit="dimensions",
        definition="slope of -ln(1 - F(mu)) on ln mu through the origin, mu = distance to the "
        "second / to the nearest neighbour, the largest tenth of mu left out; equal rows count "
        f"once; of more than {MAX_ROWS} rows as many drawn by a fixed hash of prompt and position",
        source="Facco et al. 2017 (Two-NN); scikit-dimension",
        needs="rows",
        compute=two_nn,
        measure=NeighbourSamples,
        package="skdim",
        extra="dimension",
        no_error="a group left out changes every neighbour: a search of its own for each",
    ),
    Metric[float](
        name="anisotropy",
        unit="1",
        definition="mean cosine of two different rows of X(L), not centred, over all pairs; rows "
        "of length 0 left out",
        source="Ethayarajh 2019, arXiv 1909.00512",
        needs="rows",
        compute=_same,
        measure=PairwiseCosines,
        bounds=(-1.0, 1.0),
    ),
    Metric[float](
        name="curvature",
        unit="degrees",
        definition="angle between x_(t+1) - x_t and x_(t+2) - x_(t+1), mean over t of a prompt "
        "with t + 2 < L, then over prompts; angles at a repeated state left out",
        source="Henaff et al. 2019; Hosseini and Fedorenko 2023, arXiv 2311.04930",
        needs="rows",
        compute=_same,
        measure=Curvatures,
    ),
    Metric[float](
        name="prompt_erank",
        unit="dimensions",
        definition="exp of the mean over prompts of -sum pi ln pi, pi = lambda / sum lambda of "
        "Z^T Z / n, Z the prompt's rows less their mean, each over its length",
        source=_WEI,
        needs="rows",
        compute=_same,
        measure=PromptRanks,
    ),
    Metric[float](
        name="diff_erank",
        unit="dimensions",
        definition="prompt_erank of the untrained twin less that of the run, at the same site "
        f"over the same prompts; null where there is {NO_TWIN}",
        source=_WEI,
        needs="rows",
        compute=_same,
        measure=RankDifferences,
        own_rows=False,
        bounds=UNBOUNDED,
    ),
)
"""Every metric that needs rows."""
