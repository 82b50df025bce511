"""Every chart, with a frame of its table."""

from collections.abc import Callable
from functools import cache
from typing import Any

import polars as pl
import pytest
from chart_frames import (
    checkpoints,
    cka,
    drift_sites,
    eigenvalues,
    entropy,
    item_features,
    item_reliability,
    item_risk,
    layers,
    pair_bins,
    pair_positions,
    pair_sites,
    probe_reliability,
    probes,
    profiles,
)

from lpp.analyze.charts import charts

Chart = Callable[[pl.DataFrame], Any]
CHARTS: dict[str, tuple[Chart, Callable[[], pl.DataFrame], dict[str, int]]] = {
    "profile": (charts.profile_chart, profiles, {"point": 9}),
    "entropy": (charts.entropy_chart, entropy, {"line mark": 3, "point": 12}),
    "depth": (charts.depth_chart, layers, {"line mark": 6, "point": 36, "text mark": 2}),
    "spectrum": (charts.spectrum_chart, eigenvalues, {"line mark": 3, "point": 117}),
    "training": (
        charts.training_chart,
        checkpoints,
        {"line mark": 6, "point": 30, "text mark": 2},
    ),
    "cka": (charts.cka_chart, cka, {"rect mark": 9}),
    "drift": (charts.drift_grid_chart, drift_sites, {"rect mark": 9}),
    "drift by depth": (charts.drift_depth_chart, pair_sites, {"line mark": 6, "point": 18}),
    "drift by position": (
        charts.drift_positions_chart,
        pair_positions,
        {"line mark": 3, "point": 12},
    ),
    "spread of drift": (charts.drift_histogram_chart, pair_bins, {"line mark": 3, "point": 12}),
    "items by depth": (charts.item_depth_chart, item_features, {"line mark": 2, "point": 6}),
    "reliability": (charts.reliability_chart, item_reliability, {"point": 3}),
    "risk": (charts.risk_chart, item_risk, {"line mark": 1, "point": 4}),
    "probes by depth": (charts.probe_depth_chart, probes, {"line mark": 1, "point": 3}),
    "reliability of probes": (charts.probe_reliability_chart, probe_reliability, {"point": 5}),
}
"""Each chart, the frame it takes, and the marks that hold its values."""

every = pytest.mark.parametrize("name", CHARTS)
"""Runs a test once for each chart, by name."""


@cache
def drawn(name: str) -> Any:
    """The chart of that name. Created once, in up to 0.3 s; tests must not change it."""
    chart, frame, _ = CHARTS[name]
    return chart(frame())


@cache
def specified(name: str) -> dict[str, Any]:
    """The chart's specification, checked against the schema of Vega-Lite."""
    return charts.specification(drawn(name))
