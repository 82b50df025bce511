"""Every declared metric, by name: one list, spliced from the modules that declare them by kind."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final

from lpp.analyze.engine.summary import SPECTRAL_KINDS, Demand
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.rows import ROW_METRICS
from lpp.analyze.metrics.spectral import PAPER, SPECTRAL
from lpp.analyze.metrics.tokens import TOKEN_METRICS
from lpp.analyze.runs.select import matching


def by_name(metrics: Iterable[Metric[Any]]) -> Mapping[str, Metric[Any]]:
    """`metrics` under their names, in order. ValueError for a name declared twice."""
    found: dict[str, Metric[Any]] = {}
    for metric in metrics:
        if metric.name in found:
            raise ValueError(f"metric {metric.name} is declared twice")
        found[metric.name] = metric
    return MappingProxyType(found)


METRICS: Final = by_name((*SPECTRAL, *ROW_METRICS, *TOKEN_METRICS))
"""Every metric that `profile --metrics` and `scan_metrics` know, in the order they are listed."""

PAPER_NAMES: Final = tuple(metric.name for metric in PAPER)
"""Those of the spectra table."""


def chosen(patterns: Sequence[str]) -> list[Metric[Any]]:
    """The metrics that fit `patterns`, in order; `paper` stands for those of the paper.

    One whose package is missing is left out where no pattern is its name (`unavailable` tells);
    asked for by name, it stays and says so when it is computed.
    Raises InputError for a pattern that fits none.

    >>> [metric.name for metric in chosen(["rankme", "top?_column_share"])]
    ['top1_column_share', 'top5_column_share', 'rankme']
    """
    return [m for m in _fitting(patterns) if m.name in patterns or not _is_missing(m)]


def unavailable(patterns: Sequence[str]) -> list[str]:
    """One line for each metric that `chosen` leaves out for want of a package."""
    return [
        f"{m.name}: left out, {m.package} is not installed: pip install 'lpp-engine[{m.extra}]'"
        for m in _fitting(patterns)
        if m.name not in patterns and _is_missing(m)
    ]


def _fitting(patterns: Sequence[str]) -> list[Metric[Any]]:
    every = [name for p in patterns for name in (PAPER_NAMES if p == "paper" else (p,))]
    return [METRICS[name] for name in matching("metric", every, METRICS)]


def _is_missing(metric: Metric[Any]) -> bool:
    return bool(metric.package) and find_spec(metric.package) is None


def with_free(metrics: Sequence[Metric[Any]]) -> list[Metric[Any]]:
    """`metrics`, those of the paper that need nothing that they do not need, and ratios.

    A metric of vectors brings the participation ratio of its matrix, which says whether that
    collapsed: free where the matrix is there, a scatter matrix of the rows where it is not.
    """
    of_vectors = [metric for metric in metrics if metric.needs != "tokens"]
    demand = Demand.of(metrics)
    free = {m.name: m for m in PAPER if m.matrix in demand.solved}
    if any(metric.needs in SPECTRAL_KINDS for metric in metrics):
        free |= {m.name: m for m in PAPER if m.needs == "scatter"}
    free |= {metric.ratio: METRICS[metric.ratio] for metric in of_vectors}
    return list(by_name([*metrics, *(m for m in free.values() if m not in metrics)]).values())
