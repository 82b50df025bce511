"""Every declared metric, by name: one list, spliced from the modules that declare them by kind."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.rows import ROW_METRICS
from lpp.analyze.metrics.spectral import PAPER, SPECTRAL
from lpp.analyze.metrics.tokens import TOKEN_METRICS
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.items import DRIFT_FEATURES, FEATURES
from lpp.analyze.quantities.probes import PROBE_CHANGES, PROBE_NUMBERS
from lpp.analyze.quantities.profiles import ENTROPIES
from lpp.analyze.quantities.quantity import Quantity, by_name
from lpp.analyze.runs.select import matching

METRICS: Final[Mapping[str, Metric[Any]]] = by_name((*SPECTRAL, *ROW_METRICS, *TOKEN_METRICS))
"""Every metric that `profile --metrics` and `scan_metrics` know, in the order they are listed."""

QUANTITIES: Final[tuple[Quantity, ...]] = (
    *ENTROPIES,
    *METRICS.values(),
    *PREDICTIONS.values(),
    *SITE_CHANGES.values(),
    *FEATURES,
    *DRIFT_FEATURES,
    *PROBE_NUMBERS.values(),
    *PROBE_CHANGES.values(),
)
"""Every number that is declared, of any subject."""

RANKS: Final = (
    "participation_ratio",
    "participation_ratio_norm",
    "effective_rank",
    "effective_rank_norm",
)
"""Ranks of a profile: dimensions, and dimensions over min(N, d)."""

PROFILE: Final[Mapping[str, Quantity]] = by_name((*ENTROPIES, *(METRICS[name] for name in RANKS)))
"""The numbers of a profile."""

PAPER_NAMES: Final = tuple(metric.name for metric in PAPER)
"""Names of the metrics in the spectra table."""

SINKS: Final = ("n_sinks", "sink_end")
"""Metrics of rows in that table, in addition."""


def chosen(patterns: Sequence[str]) -> list[Metric[Any]]:
    """The metrics that fit `patterns`, in order; `paper` stands for those of the paper.

    Raises InputError for a pattern that fits none.

    >>> [metric.name for metric in chosen(["rankme", "top?_column_share"])]
    ['top1_column_share', 'top5_column_share', 'rankme']
    """
    names = [name for p in patterns for name in (PAPER_NAMES if p == "paper" else (p,))]
    return [METRICS[name] for name in metric_names(names)]


def with_free(metrics: Sequence[Metric[Any]]) -> list[Metric[Any]]:
    """`metrics`, those of the paper that need nothing that they do not need, and ratios.

    A metric of vectors brings the participation ratio of its matrix, which says whether that
    collapsed: free where the matrix is there, a scatter matrix of the rows where it is not.
    """
    of_vectors = [metric for metric in metrics if metric.needs != "tokens"]
    solved = {metric.matrix for metric in metrics if metric.needs == "eigenvalues"}
    free = {m.name: m for m in PAPER if m.matrix in solved}
    if any(metric.needs in {"scatter", "eigenvalues"} for metric in metrics):
        free |= {m.name: m for m in PAPER if m.needs == "scatter"}
    free |= {metric.ratio: METRICS[metric.ratio] for metric in of_vectors}
    return list(by_name([*metrics, *(m for m in free.values() if m not in metrics)]).values())


def metric_names(patterns: Iterable[str]) -> list[str]:
    """Names of the metrics that fit any of `patterns`. InputError for one that fits none."""
    option = "--metrics (`lpp-analyze metrics` lists them)"
    return matching("metric", patterns, METRICS, option=option)
