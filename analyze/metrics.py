"""Every declared metric, by name: one list, spliced from the modules that declare them by kind."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from lpp.analyze.metric import Metric
from lpp.analyze.row_metrics import ROW_METRICS
from lpp.analyze.spectral_metrics import SPECTRAL
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
"""Every metric that `--metrics` and `scan_metrics` know, in the order they are listed."""
