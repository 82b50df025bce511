"""Every declared metric, by name: one list, spliced from the modules that declare them by kind."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from lpp.analyze.metric import Metric
from lpp.analyze.row_metrics import ROW_METRICS
from lpp.analyze.select import matching
from lpp.analyze.spectral_metrics import PAPER, SPECTRAL
from lpp.analyze.summary import SPECTRAL_KINDS, Demand
from lpp.analyze.token_metrics import TOKEN_METRICS


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

    Raises InputError for a pattern that fits none.

    >>> [metric.name for metric in chosen(["rankme", "top?_column_share"])]
    ['top1_column_share', 'top5_column_share', 'rankme']
    """
    every = [name for p in patterns for name in (PAPER_NAMES if p == "paper" else (p,))]
    return [METRICS[name] for name in matching("metric", every, METRICS)]


def with_free(metrics: Sequence[Metric[Any]]) -> list[Metric[Any]]:
    """`metrics`, and those of the paper that need nothing that they do not need."""
    demand = Demand.of(metrics)
    if not any(metric.needs in SPECTRAL_KINDS for metric in metrics):
        return list(metrics)
    free = [m for m in PAPER if m.needs == "scatter" or m.matrix in demand.solved]
    return list(by_name([*metrics, *(m for m in free if m not in metrics)]).values())
