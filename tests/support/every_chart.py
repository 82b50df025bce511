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
    expert_load,
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

import lpp.analyze
from lpp.analyze.charts.export import panels_of

Chart = Callable[[pl.DataFrame], Any]
CHARTS: dict[str, tuple[Chart, Callable[[], pl.DataFrame], dict[str, int]]] = {
    "profile": (lpp.analyze.profile_chart, profiles, {"point": 9}),
    "entropy": (lpp.analyze.entropy_chart, entropy, {"line mark": 3, "point": 12}),
    "depth": (lpp.analyze.depth_chart, layers, {"line mark": 6, "point": 36}),
    "spectrum": (lpp.analyze.spectrum_chart, eigenvalues, {"line mark": 3, "point": 117}),
    "training": (lpp.analyze.training_chart, checkpoints, {"line mark": 6, "point": 30}),
    "cka": (lpp.analyze.cka_chart, cka, {"rect mark": 8}),
    "load by expert": (lpp.analyze.expert_load_chart, expert_load, {"rect mark": 8}),
    "drift": (lpp.analyze.drift_grid_chart, drift_sites, {"rect mark": 8}),
    "drift by depth": (lpp.analyze.drift_depth_chart, pair_sites, {"line mark": 6, "point": 18}),
    "drift by position": (
        lpp.analyze.drift_positions_chart,
        pair_positions,
        {"line mark": 3, "point": 12},
    ),
    "spread of drift": (
        lpp.analyze.drift_histogram_chart,
        pair_bins,
        {"line mark": 3, "point": 12},
    ),
    "items by depth": (lpp.analyze.item_depth_chart, item_features, {"line mark": 2, "point": 6}),
    "reliability": (lpp.analyze.reliability_chart, item_reliability, {"point": 3}),
    "risk": (lpp.analyze.risk_chart, item_risk, {"line mark": 1, "point": 4}),
    "probes by depth": (lpp.analyze.probe_depth_chart, probes, {"line mark": 1, "point": 3}),
    "reliability of probes": (lpp.analyze.probe_reliability_chart, probe_reliability, {"point": 5}),
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
    spec: dict[str, Any] = drawn(name).to_dict()
    return spec


def panels(chart: Any) -> list[dict[str, Any]]:
    """The panels of a chart, as a page shows them."""
    return [*panels_of(chart).values()]


def marks(panel: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The layers of a panel whose marks are of `kind`, each with its data."""
    found = []
    for layer in panel.get("layer", [panel]):
        if layer["mark"]["type"] == kind:
            data = layer.get("data") or panel["data"]
            rows = data["values"] if "values" in data else panel["datasets"][data["name"]]
            found.append({**layer, "rows": rows})
    return found


def rows(panel: dict[str, Any], kind: str = "point") -> list[dict[str, Any]]:
    """The data of the first layer of that kind."""
    of_mark: list[dict[str, Any]] = marks(panel, kind)[0]["rows"]
    return of_mark
