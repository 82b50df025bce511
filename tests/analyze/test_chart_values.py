"""Values in charts: those of the table, intervals, settings, missing numbers, what is left out."""

from typing import Any

import polars as pl
import pytest
from chart_frames import (
    eigenvalues,
    layers,
    profiles,
)
from every_chart import CHARTS, Chart, drawn, every, panels, rows

from lpp.analyze import (
    depth_chart,
    profile_chart,
    spectrum_chart,
)
from lpp.analyze.charts.profiles import thinned

COLUMNS = {
    "profile": ("entropy_floor", "participation_ratio", "effective_rank"),
    "entropy": ("entropy_norm",),
    "depth": ("participation_ratio", "effective_rank"),
    "spectrum": ("share",),
    "training": ("entropy_floor", "participation_ratio", "effective_rank"),
    "cka": ("cka",),
    "drift": ("relative_distance",),
    "drift by depth": ("relative_distance", "cka"),
    "drift by position": ("kl",),
    "spread of drift": ("share",),
    "items by depth": ("auroc",),
    "reliability": ("accuracy",),
    "risk": ("risk",),
    "probes by depth": ("probe_auroc",),
    "reliability of probes": ("accuracy",),
}
"""Columns of the table of a chart, one for each panel."""


@every
def test_the_values_are_those_of_the_table(name: str) -> None:
    frame, of_chart = CHARTS[name][1](), panels(drawn(name))
    if name == "spectrum":
        frame = thinned(frame.sort("run", "rank"))
    elif name == "spread of drift":
        frame = frame.drop_nulls("kl_from")
    elif name == "items by depth":
        frame = frame.filter(pl.col("site") != "")
    elif name == "probes by depth":
        frame = frame.filter(role="site")
    assert len(of_chart) == len(COLUMNS[name])
    for panel, column in zip(of_chart, COLUMNS[name], strict=True):
        expected = frame[column].drop_nulls()
        if (name, column) == ("drift by depth", "cka"):
            expected = 1 - expected
        found = rows(panel, "rect" if name in ("cka", "drift") else "point")
        assert sorted(row["value"] for row in found) == pytest.approx(sorted(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("chart", "frame"), [(profile_chart, profiles()), (spectrum_chart, eigenvalues())]
)
def test_other_first_positions_are_left_out(chart: Chart, frame: pl.DataFrame) -> None:
    whole = frame.with_columns(first_position=pl.lit(0, pl.Int32))
    cut = frame.with_columns(first_position=pl.lit(2, pl.Int32))
    assert chart(pl.concat([cut, whole])).description == chart(frame).description


def test_intervals_and_their_numbers() -> None:
    panel = panels(profile_chart(profiles()))[-1]
    assert "A tiny-one: 20.12 (95 % 19.62 to 20.88)" in panel["description"]
    row = next(row for row in rows(panel) if row["label"] == "A tiny-one")
    assert (row["value"], row["low"], row["high"]) == (20.125, 19.625, 20.875)
    without = profiles().drop("effective_rank_ci_low")
    assert all("low" not in row for row in rows(panels(profile_chart(without))[-1]))


def notes(panel: dict[str, Any]) -> str:
    """What stands below the title."""
    return " ".join(panel["title"].get("subtitle", []))


def test_zero_is_a_value_and_null_is_told() -> None:
    frame = layers().with_columns(
        effective_rank=pl.when(pl.col("site") != "block.3").then("effective_rank")
    )
    panel = panels(depth_chart(frame))[1]
    assert "3 of 18 points have no value." in notes(panel)
    at_embed = [row for row in rows(panel) if row["site"] == "embed"]
    assert [row["relative_depth"] for row in at_embed] == [0.0] * 3
