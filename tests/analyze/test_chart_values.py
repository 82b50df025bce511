"""Values in charts: those of the table, intervals, settings, missing numbers, what is left out."""

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chart_frames import (
    RUNS,
    Picture,
    cut_layers,
    differences,
    drift_by_step,
    drift_sites,
    eigenvalues,
    layers,
    profiles,
)
from every_chart import CHARTS, Chart, drawn, every, marks, panels, rows

from lpp.analyze import (
    depth_chart,
    difference_chart,
    drift_steps_chart,
    profile_chart,
    spectrum_chart,
)
from lpp.analyze.charts.profiles import thinned
from lpp.analyze.charts.run_styles import DASHES, PALETTE, RunStyles

COLUMNS = {
    "profile": ("entropy_floor", "participation_ratio", "effective_rank"),
    "entropy": ("entropy_norm",),
    "depth": ("participation_ratio", "effective_rank"),
    "spectrum": ("share",),
    "training": ("entropy_floor", "participation_ratio", "effective_rank"),
    "cka": ("cka",),
    "load by expert": ("loads",),
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


@pytest.mark.slow
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
    elif name == "load by expert":
        frame = frame.explode("loads")
    assert len(of_chart) == len(COLUMNS[name])
    for panel, column in zip(of_chart, COLUMNS[name], strict=True):
        expected = frame[column].drop_nulls()
        if (name, column) == ("drift by depth", "cka"):
            expected = 1 - expected
        found = rows(panel, "rect" if name in ("cka", "load by expert", "drift") else "point")
        assert sorted(row["value"] for row in found) == pytest.approx(sorted(expected), rel=1e-5)


def test_steps_have_a_line_for_each_first_run_and_a_row_for_each_checkpoint() -> None:
    frame, sites = drift_by_step(), drift_sites()
    *of_numbers, grid = panels(drift_steps_chart(frame, sites))
    assert len(of_numbers) == 2
    for panel, number in zip(of_numbers, ("kl", "flips"), strict=True):
        found = {(row["label"], row["step"], row["value"]) for row in rows(panel)}
        assert len({label for label, _, _ in found}) == 2
        expected = frame.filter(number=number).select("step", "mean").rows()
        assert sorted((step, value) for _, step, value in found) == sorted(expected)
    distances = sites["relative_distance"].drop_nulls()
    assert sorted(row["value"] for row in rows(grid, "rect")) == pytest.approx(sorted(distances))


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


MANY = tuple(f"model-{k:02d}-{k:08x}" for k in range(20))
STYLES = RunStyles.of_ids(MANY)


def domain(panel: dict[str, Any], axis: str) -> list[float]:
    """The ends of an axis of a panel's curves."""
    ends: list[float] = marks(panel, "line")[-1]["encoding"][axis]["scale"]["domain"]
    return ends


def test_a_log_axis_is_tight_and_ends_at_the_largest_possible_number() -> None:
    of_pr, _ = panels(depth_chart(layers()))
    assert domain(of_pr, "y") == pytest.approx([1.5 / 1.15, 8.5 * 1.15])
    shares = eigenvalues(n=1)  # the first eigenvalue has all of the variance
    assert domain(panels(spectrum_chart(shares))[0], "y")[1] == 1.0


@pytest.mark.slow
def test_final_stands_apart_from_the_last_block(tmp_path: Path) -> None:
    chart = depth_chart(layers())
    for panel in panels(chart):
        (line,) = marks(panel, "line")
        places = {row["site"]: row["relative_depth"] for row in line["rows"]}
        assert (places["block.4"], places["final"]) == (1.0, 1.15)
        assert line["transform"] == [{"filter": "datum.relative_depth < 1.15"}]
        ticks = line["encoding"]["x"]["axis"]["values"]
        assert ticks == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1.15])
    words = Picture(chart, tmp_path).words
    assert words.count("final") == 2
    assert "embed" not in words
    without = layers().filter(pl.col("site") != "final")
    assert "final" not in Picture(depth_chart(without), tmp_path).words


@pytest.mark.slow
def test_twenty_runs_are_panels_of_five_in_five_colors() -> None:
    of_many = panels(depth_chart(layers(MANY), runs=STYLES))
    some = ("A–E", "F–J", "K–O", "P–T")
    titles = ["".join(panel["title"]["text"]) for panel in of_many]
    ranks = ("Participation ratio by depth", "Effective rank by depth")
    assert titles == [f"{rank}, {letters}" for rank in ranks for letters in some]
    ends = set()
    for panel in of_many:
        (line,) = marks(panel, "line")
        assert line["encoding"]["color"]["scale"]["range"] == [*PALETTE]
        assert len(line["rows"]) == 5 * 6
        ends.add(json.dumps([domain(panel, axis) for axis in "xy"]))
    assert len(ends) == 2  # one for each rank
    assert of_many[5]["description"].count("model-0") == 5


@pytest.mark.slow
def test_a_second_curve_is_without_the_first_positions(tmp_path: Path) -> None:
    chart = depth_chart(cut_layers(RUNS[:2]))
    picture = Picture(chart, tmp_path)
    assert dict(picture.marks) == {"line mark": 8, "point": 48}
    assert {"A", "A-2", "B", "B-2"} <= {*picture.words}
    assert any("-2: without the first 2 positions of each prompt." in w for w in picture.words)
    assert "B-2 tiny-two: 12.5 at depth 0, 17.5 at final" in picture.label
    for panel in panels(chart):
        (line,) = marks(panel, "line")
        color, dash = (line["encoding"][name]["scale"] for name in ("color", "strokeDash"))
        colors = dict(zip(color["domain"], color["range"], strict=True))
        assert colors == {"A tiny-one": PALETTE[0], "B tiny-two": PALETTE[1]}
        dashes = dict(zip(dash["domain"], dash["range"], strict=True))
        assert dashes == {"A": DASHES[0], "A-2": DASHES[1], "B": DASHES[0], "B-2": DASHES[1]}


FURTHER: dict[str, Callable[[], Any]] = {
    "cut": lambda: depth_chart(cut_layers()),
    "many": lambda: depth_chart(layers(MANY)),
    "differences": lambda: difference_chart(differences()),
}


@cache
def tipped(name: str) -> Any:
    """A chart with tooltips."""
    return drawn(name) if name in CHARTS else FURTHER[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHARTS, *FURTHER])
def test_a_tooltip_has_readable_titles_and_every_value(name: str) -> None:
    kinds = ("point", "rect", "rule")
    every = [
        mark for panel in panels(tipped(name)) for kind in kinds for mark in marks(panel, kind)
    ]
    parts = [part for part in every if "tooltip" in part["encoding"]]
    assert parts
    for part in parts:
        shown = part["encoding"]["tooltip"]
        assert [tip["title"] for tip in shown if "_" in tip["title"]] == []
        assert len({tip["title"] for tip in shown}) == len(shown)
        for row, tip in itertools.product(part["rows"], shown):
            assert row.get(tip["field"]) not in (None, ""), (tip, row)
            if tip["type"] == "quantitative":
                assert isinstance(row[tip["field"]], int | float)
                assert tip["format"] in (",d", ".4~g")
            else:
                assert isinstance(row[tip["field"]], str)


def test_differences_are_row_minus_column(tmp_path: Path) -> None:
    runs = MANY[:4]
    page = RunStyles({"x": "x", **{run: run for run in reversed(runs)}})
    chart = difference_chart(differences(runs), runs=page)
    panel = panels(chart)[1]
    (fill,) = marks(panel, "rect")
    cells = {(row["y"], row["x"]): row for row in fill["rows"]}
    # letters go from E, the first run, to B: a run j minus a run k is 2 (j - k)
    assert len(cells) == 4 * 3
    assert cells["E", "B"]["value"] == -cells["B", "E"]["value"] == -6
    ends = [(cells[place]["low"], cells[place]["high"]) for place in (("E", "B"), ("B", "E"))]
    assert ends == [(-8, -4), (4, 8)]
    assert fill["encoding"]["fill"]["scale"]["domain"] == [-6, 0, 6]
    assert fill["encoding"]["x"]["scale"]["domain"] == ["B", "C", "D", "E"]
    marked = {(row["y"], row["x"]) for row in rows(panel, "circle") if row.get("beyond")}
    assert {*cells} - marked == {(a, b) for a, b in cells if abs(ord(a) - ord(b)) == 1}
    picture = Picture(chart, tmp_path)
    assert picture.marks["rect mark"] == 2 * 4 * 3
    assert "3 of 6 differences differ from 0" in picture.label
