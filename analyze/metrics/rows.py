"""Declared metrics that need the rows, because no scatter matrix gives them.

Each says what is kept of the rows while they are read (`measure`), so that memory stays bounded
however many there are.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.row_measures.anisotropy import PairwiseCosines
from lpp.analyze.metrics.row_measures.block_influence import BlockInfluence
from lpp.analyze.metrics.row_measures.neighbours import MAX_ROWS, NeighbourSamples
from lpp.analyze.metrics.row_measures.prompt_ranks import PromptRanks
from lpp.analyze.metrics.row_measures.robust import RobustSpectra
from lpp.analyze.metrics.row_measures.sinks import PositionNorms, n_sinks, sink_end
from lpp.analyze.metrics.row_measures.trajectory import Curvatures
from lpp.analyze.metrics.spectral import PAPER
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.quantities.quantity import UNBOUNDED
from lpp.analyze.runs.cells import Cell, Integers
from lpp.analyze.runs.twins import NO_TWIN
from lpp.store.feed.measured import SINK_FACTOR

_WEI: Final = "Wei et al. 2024 (Diff-eRank), arXiv 2401.17139"
_PAPER: Final = {metric.name: metric for metric in PAPER}


def _robust(name: str, definition: str, trap: str) -> Metric[Spectrum]:
    """A metric of the paper on the spectrum of clipped rows."""
    plain = _PAPER[name]
    return replace(
        plain,
        name=f"robust_{name}",
        label="",
        short=f"r{plain.short}",
        normalises=plain.normalises and f"robust_{plain.normalises}",
        definition=definition,
        trap=trap,
        source="arXiv 2605.30018",
        needs="rows",
        measure=RobustSpectra,
        ratio="robust_participation_ratio",
        no_error="leaving out a group changes what is clipped, so each group needs two more reads",
        version=2,
    )


def _same(value: float) -> float:
    """The measurement is the number."""
    return value


_CLIPPED: Final = (
    "X^T X / (N - 1). X is centred; then its 5 columns of highest variance are clipped at +-3 "
    "standard deviations. X is not centred again"
)

_PROMPT_ERANK: Final = Metric[float](
    name="prompt_erank",
    unit="dimensions",
    definition="exp of the mean over prompts of -sum pi ln pi, pi = lambda / sum lambda, from the "
    "eigenvalues of Z^T Z / n; Z: the n rows of a prompt minus their mean, each divided by its "
    "norm. Leaves out prompts whose rows are equal",
    source=_WEI,
    trap="At most a prompt's number of tokens: compare prompts of equal length.",
    needs="rows",
    compute=_same,
    measure=PromptRanks,
)

_SINK: Final = (
    f"Position p is a sink if the median over prompts of |x_p| exceeds {SINK_FACTOR:g} times the "
    "median of |x| at all other captured positions. The rows are not centred. Missing if a row of "
    "X(L) is not finite"
)


def _sinks(
    name: str, compute: Callable[[tuple[Cell, Integers]], float], definition: str, trap: str
) -> Metric[tuple[Cell, Integers]]:
    return Metric(
        name=name,
        unit="positions",
        definition=definition,
        trap=trap,
        source="Xiao et al. 2023, arXiv 2309.17453; Sun et al. 2024, arXiv 2402.17762",
        needs="rows",
        compute=compute,
        measure=PositionNorms,
        bounds=(0.0, math.inf),
        no_error="a count: leaving out prompts seldom changes it, which does not make it certain",
    )


ROW_METRICS: Final = (
    _robust(
        "participation_ratio",
        f"participation ratio of {_CLIPPED}",
        "Five columns are clipped, whatever the width d. Error bars are not computed.",
    ),
    _robust(
        "effective_rank",
        "effective rank of the matrix in robust_participation_ratio",
        "As for `robust_participation_ratio`.",
    ),
    _robust(
        "participation_ratio_norm",
        "robust_participation_ratio / min(N, d)",
        "As for `participation_ratio_norm`.",
    ),
    _robust(
        "effective_rank_norm",
        "robust_effective_rank / min(N, d)",
        "As for `effective_rank_norm`.",
    ),
    Metric[float](
        name="two_nn",
        unit="dimensions",
        definition="slope of -ln(1 - F(mu)) on ln mu through the origin, without the largest "
        "tenth of mu. mu: a row's distance to its second nearest neighbour / distance to its "
        "nearest; F: the distribution of mu over rows. Equal rows count once. If there are more "
        f"than {MAX_ROWS} rows, a hash of prompt and position chooses {MAX_ROWS}",
        source="Facco et al. 2017 (Two-NN)",
        trap="With few rows, the dimension comes out too low. Error bars are not computed.",
        needs="rows",
        compute=_same,
        measure=NeighbourSamples,
        no_error="leaving out a group changes every neighbour, so each group needs its own search",
    ),
    Metric[float](
        name="anisotropy",
        unit="1",
        definition="mean cosine over all pairs of rows of X(L), not centred, without rows of norm "
        "0",
        source="Ethayarajh 2019, arXiv 1909.00512",
        trap="A common mean alone makes it large.",
        needs="rows",
        compute=_same,
        measure=PairwiseCosines,
        bounds=(-1.0, 1.0),
        version=2,
    ),
    Metric[float](
        name="curvature",
        unit="degrees",
        definition="angle between x_(t+1) - x_t and x_(t+2) - x_(t+1): mean over positions t of a "
        "prompt with t + 2 < L, then over prompts; without angles at repeated states",
        source="Henaff et al. 2019; Hosseini and Fedorenko 2023, arXiv 2311.04930",
        trap="Independent random states give 120 degrees, not 90.",
        needs="rows",
        compute=_same,
        measure=Curvatures,
        version=2,
    ),
    _PROMPT_ERANK,
    Metric[float](
        name="diff_erank",
        unit="dimensions",
        definition="prompt_erank of the run's untrained twin minus prompt_erank of the run, same "
        f"site and prompts. Missing if there is {NO_TWIN}",
        source=_WEI,
        trap="Another seed of the twin's random weights gives another value.",
        needs="rows",
        compute=_same,
        of_twin=_PROMPT_ERANK,
        bounds=UNBOUNDED,
    ),
    Metric[float](
        name="block_influence",
        unit="1",
        definition="1 - mean cosine of the input rows (site block.(k-1), or embed) and output "
        "rows (site block.k) of block k, not centred, without rows of norm 0. Missing at other "
        "sites, and if the input was not captured",
        source="Men et al. 2024 (ShortGPT), arXiv 2403.03853",
        trap="A small value does not show that the block can be removed: evaluate without it.",
        needs="rows",
        compute=_same,
        measure=BlockInfluence,
        bounds=(0.0, 2.0),
        version=2,
    ),
    _sinks(
        "n_sinks",
        n_sinks,
        f"number of sink positions p, first_position <= p < L. {_SINK}",
        "A position that is a sink in only 2 % of the prompts does not count.",
    ),
    _sinks(
        "sink_end",
        sink_end,
        "first position after the site's last sink (see n_sinks), even beyond L; 0 without sinks",
        "Skipping to sink_end also skips tokens that are no sinks: choose before you see results.",
    ),
)
"""Every metric that needs rows."""
