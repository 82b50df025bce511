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
        no_error="a group left out changes what is clipped: two more reads for each",
        version=2,
    )


def _same(value: float) -> float:
    """The measurement is the number."""
    return value


_CLIPPED: Final = (
    "of X^T X / (N - 1), X centred, its 5 columns of highest variance then clipped at +-3 of "
    "their standard deviations, not centred again"
)

_PROMPT_ERANK: Final = Metric[float](
    name="prompt_erank",
    unit="dimensions",
    definition="exp of the mean over prompts of -sum pi ln pi, pi = lambda / sum lambda of "
    "Z^T Z / n, Z the prompt's rows less their mean, each over its length",
    source=_WEI,
    trap="At most the number of tokens of a prompt: compare prompts of equal length.",
    needs="rows",
    compute=_same,
    measure=PromptRanks,
)

_SINK: Final = (
    "position p is a sink when the median over prompts of |x_p| exceeds "
    f"{SINK_FACTOR:g} times the median of |x| at all other captured positions, X not centred, "
    "rows that are not finite left out; null where the cell has such rows"
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
        no_error="a count of positions: leaving prompts out seldom moves it, which is no certainty",
    )


ROW_METRICS: Final = (
    _robust(
        "participation_ratio",
        f"(sum lambda)^2 / sum lambda^2 {_CLIPPED}",
        "Five columns are clipped, whatever the width; no error bars.",
    ),
    _robust(
        "effective_rank",
        "effective rank of the matrix of robust_participation_ratio",
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
        definition="slope of -ln(1 - F(mu)) on ln mu through the origin, mu = distance to the "
        "second / to the nearest neighbour, the largest tenth of mu left out; equal rows count "
        f"once; of more than {MAX_ROWS} rows as many drawn by a fixed hash of prompt and position",
        source="Facco et al. 2017 (Two-NN)",
        trap="A small sample biases it low. No error bars.",
        needs="rows",
        compute=_same,
        measure=NeighbourSamples,
        no_error="a group left out changes every neighbour: a search of its own for each",
    ),
    Metric[float](
        name="anisotropy",
        unit="1",
        definition="mean cosine of two different rows of X(L), not centred, over all pairs; rows "
        "of length 0 left out",
        source="Ethayarajh 2019, arXiv 1909.00512",
        trap="Not centred: a common mean alone makes it large.",
        needs="rows",
        compute=_same,
        measure=PairwiseCosines,
        bounds=(-1.0, 1.0),
        version=2,
    ),
    Metric[float](
        name="curvature",
        unit="degrees",
        definition="angle between x_(t+1) - x_t and x_(t+2) - x_(t+1), mean over t of a prompt "
        "with t + 2 < L, then over prompts; angles at a repeated state left out",
        source="Henaff et al. 2019; Hosseini and Fedorenko 2023, arXiv 2311.04930",
        trap="Independent random states have 120 degrees, not 90.",
        needs="rows",
        compute=_same,
        measure=Curvatures,
        version=2,
    ),
    _PROMPT_ERANK,
    Metric[float](
        name="diff_erank",
        unit="dimensions",
        definition="prompt_erank of the untrained twin less that of the run, at the same site "
        f"over the same prompts; null where there is {NO_TWIN}",
        source=_WEI,
        trap="Needs the untrained twin in the same store; one seed is one draw.",
        needs="rows",
        compute=_same,
        of_twin=_PROMPT_ERANK,
        bounds=UNBOUNDED,
    ),
    Metric[float](
        name="block_influence",
        unit="1",
        definition="of block k: 1 - mean cosine of its input rows (site block.(k-1), embed for k = "
        "1) and its output rows (site block.k), not centred; rows of length 0 left out; null at "
        "other sites, and where the input was not captured",
        source="Men et al. 2024 (ShortGPT), arXiv 2403.03853",
        trap="Small does not mean that a block can be removed: evaluate the model without it.",
        needs="rows",
        compute=_same,
        measure=BlockInfluence,
        bounds=(0.0, 2.0),
        version=2,
    ),
    _sinks(
        "n_sinks",
        n_sinks,
        f"{_SINK}; sinks at first_position <= p < L",
        "A position that is a sink in 2 % of the prompts is missed.",
    ),
    _sinks(
        "sink_end",
        sink_end,
        "one past the last sink of the site, as in n_sinks but whatever L; 0 for none",
        "Starting there also leaves out tokens that are no sinks: choose where to start before "
        "you look at results.",
    ),
)
"""Every metric that needs rows."""
