"""Panels of many lines: letters, ticks, `final` apart, tooltips, pointing at a run."""

import itertools
import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from chart_frames import (
    Picture,
    cut_layers,
    differences,
    eigenvalues,
    entropy,
    layers,
    pair_positions,
)
from every_chart import CHARTS, drawn, specified

from lpp.analyze.charts import charts
from lpp.analyze.charts.axes import ALONG, FEWEST, UP, log_axis, log_ticks
from lpp.analyze.charts.lines import LETTER_HEIGHT, LINES
from lpp.analyze.charts.run_styles import PALETTE, RunStyles
from lpp.analyze.charts.theme import DIM, PLOT_HEIGHT

MANY = tuple(f"model-{k:02d}-{k:08x}" for k in range(20))
STYLES = RunStyles.of_ids(MANY)


def layers_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers of all panels, each with its data."""
    return [
        {"data": panel.get("data"), **layer}
        for panel in spec.get("concat", [spec])
        for layer in panel["layer"]
    ]


def rows_of(spec: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a layer, with what a lookup adds to them."""
    rows: list[dict[str, Any]] = spec["datasets"][part["data"]["name"]]
    for step in part.get("transform", []):
        if "lookup" in step:
            key, name = step["lookup"], step["from"]["data"]["name"]
            others = {row[key]: row for row in spec["datasets"][name]}
            rows = [{**others.get(row[key], {}), **row} for row in rows]
    return rows


def panels_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return list(spec.get("concat", [spec]))


@pytest.mark.parametrize("low", [0.0021, 0.8, 1.0, 3.0, 12.0, 950.0])
@pytest.mark.parametrize("ratio", [1.2, 2.0, 4.0, 9.0, 60.0, 1e4, 1e9])
@pytest.mark.parametrize("most", [UP, ALONG])
def test_a_log_axis_has_labels_and_not_too_many(low: float, ratio: float, most: int) -> None:
    ticks = log_ticks(low, low * ratio, most)
    assert FEWEST <= len(ticks) <= max(most, 10)
    assert low * (1 - 1e-9) <= min(ticks) < max(ticks) <= low * ratio * (1 + 1e-9)
    assert ticks == sorted({*ticks})


def test_no_tick_lies_above_the_largest_possible_number() -> None:
    def ticks(most: float) -> list[float]:
        axis = log_axis([0.85, 1.0], most)
        assert axis.high > 1.0  # room for the mark
        return list(axis.axis.to_dict()["values"])

    assert max(ticks(1.0)) == 1.0 < max(ticks(math.inf))


def test_a_wide_log_axis_is_labelled_at_1_2_5() -> None:
    assert log_ticks(1, 60) == [1, 2, 5, 10, 20, 50]


def test_positions_are_written_in_full(tmp_path: Path) -> None:
    bands = pair_positions().with_columns(
        first=pl.Series([0, 1, 10, 100] * 3, dtype=pl.Int32)[: pair_positions().height]
    )
    words = Picture(charts.drift_positions_chart(bands), tmp_path).words
    assert "100" in words
    assert [word for word in words if "e+" in word] == []


def test_final_stands_apart_from_the_last_block() -> None:
    spec = charts.specification(charts.depth_panels(layers())["effective_rank"])
    (line,) = (part for part in spec["layer"] if "strokeDash" in part["encoding"])
    (joined,) = (step["filter"] for step in line["transform"] if "filter" in step)
    rows = rows_of(spec, line)
    places = {row["site"]: row["place"] for row in rows}
    assert (places["block.4"], places["final"]) == (1.0, 1.15)
    assert joined == {"field": "place", "lt": places["final"]}
    axis = line["encoding"]["x"]["axis"]
    assert axis["values"] == [0, 0.2, 0.4, 0.6, 0.8, 1, places["final"]]
    assert "'final'" in axis["labelExpr"]


def test_the_column_of_final_is_labelled(tmp_path: Path) -> None:
    picture = Picture(charts.depth_panels(layers())["effective_rank"], tmp_path)
    assert picture.words.count("final") == 1
    assert "embed" not in picture.words
    without = layers().filter(pl.col("site") != "final")
    assert "final" not in Picture(charts.depth_panels(without)["effective_rank"], tmp_path).words


def test_twenty_runs_are_panels_of_five_in_five_colors() -> None:
    panels = charts.depth_panels(layers(MANY), runs=STYLES)
    ranks = ("participation_ratio", "effective_rank")
    some = ("A to E", "F to J", "K to O", "P to T")
    assert list(panels) == [f"{rank} {letters}" for rank in ranks for letters in some]
    domains = set()
    for panel in panels.values():
        spec = charts.specification(panel)
        (line,) = (part for part in spec["layer"] if "strokeDash" in part["encoding"])
        color = line["encoding"]["color"]["scale"]
        assert color["range"] == [*PALETTE]
        assert len(rows_of(spec, line)) == 5 * 6
        domains.add(json.dumps([line["encoding"][axis]["scale"]["domain"] for axis in "xy"]))
        grey = spec["layer"][0]
        assert len({row["curve"] for row in rows_of(spec, grey)}) == 20  # all, behind
    assert len(domains) == 2  # one for each rank
    assert panels["effective_rank F to J"].description.count("model-0") == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chart", "panels", "frame"),
    [
        (charts.entropy_chart, charts.entropy_panels, entropy),
        (charts.spectrum_chart, charts.spectrum_panels, eigenvalues),
    ],
)
def test_ten_runs_are_one_panel(chart: Any, panels: Any, frame: Any) -> None:
    assert list(panels(frame(MANY[:LINES]))) == [""]
    assert "concat" not in charts.specification(chart(frame(MANY[:LINES])))
    assert len(charts.specification(chart(frame(MANY)))["concat"]) == 4
    assert list(panels(frame(MANY[:12]))) == ["A to D", "E to H", "I to L"]
    assert panels(frame().clear()) == {}


@pytest.mark.parametrize("count", [2, LINES, 20])
def test_signs_of_two_runs_do_not_cover_each_other(count: int, tmp_path: Path) -> None:
    flagged = layers(MANY[:count]).with_columns(flags=pl.lit(["collapsed", "sink"]))
    panels = charts.depth_panels(flagged)
    of_each = min(count, 5 if count == 20 else LINES)
    for panel in panels.values():
        signs = drawn_signs(Picture(panel, tmp_path).root)
        assert {sign for sign, *_ in signs} == {"×", "†"}
        assert len(signs) == 2 * of_each * 6
        assert {color for *_, color in signs} == {*PALETTE[:of_each]}
        heights = sorted({y for _, _, y, _ in signs})
        assert len(heights) == 2 * of_each  # a row for each run and sign, below the plot
        assert min(np.diff(heights)) > 5
        assert min(heights) > PLOT_HEIGHT
    spec = charts.specification(next(iter(panels.values())))
    (line,) = (part for part in spec["layer"] if "strokeDash" in part["encoding"])
    # the axis of ranks begins below the smallest one, whatever has signs
    assert line["encoding"]["y"]["scale"]["domain"][0] == pytest.approx(1.5 / 1.15)


def drawn_signs(root: Any) -> list[tuple[str, float, float, str]]:
    """Each sign of a picture, its place in pixels, and its colour."""
    found = []
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        if text.text in ("×", "†"):
            x, y = re.findall(r"-?[\d.]+", text.get("transform"))
            found.append((text.text, round(float(x), 1), round(float(y), 1), text.get("fill")))
    return found


def test_letters_of_many_lines_do_not_collide() -> None:
    for panel in charts.depth_panels(layers(MANY[:LINES])).values():
        spec = charts.specification(panel)
        (letters,) = (
            part for part in spec["layer"] if part["encoding"].get("text", {}).get("field")
        )
        name = letters["encoding"]["y"]["field"]
        low, high = letters["encoding"]["y"]["scale"]["domain"]
        values = sorted(row[name] for row in rows_of(spec, letters))
        pixels = np.log(np.array(values) / low) / np.log(high / low) * PLOT_HEIGHT
        assert len(pixels) == LINES
        assert np.diff(pixels).min() > 0.99 * LETTER_HEIGHT
        assert pixels[0] >= -0.01
        assert pixels[-1] <= PLOT_HEIGHT + 0.01


FURTHER: dict[str, Callable[[], Any]] = {
    "cut": lambda: charts.depth_chart(cut_layers()),
    "many": lambda: charts.depth_chart(layers(MANY)),
    "differences": lambda: charts.difference_chart(differences()),
}


@cache
def tipped(name: str) -> tuple[Any, dict[str, Any]]:
    """A chart with tooltips, and its specification."""
    if name in CHARTS:
        return drawn(name), specified(name)
    chart = FURTHER[name]()
    return chart, charts.specification(chart)


@pytest.mark.parametrize("name", [*CHARTS, *FURTHER])
def test_a_tooltip_has_readable_titles_and_every_value(name: str) -> None:
    _, spec = tipped(name)
    parts = [part for part in layers_of(spec) if "tooltip" in part["encoding"]]
    assert parts
    for part in parts:
        shown = part["encoding"]["tooltip"]
        assert [tip["title"] for tip in shown if "_" in tip["title"]] == []
        assert len({tip["title"] for tip in shown}) == len(shown)
        for row, tip in itertools.product(rows_of(spec, part), shown):
            assert row.get(tip["field"]) not in (None, ""), (tip, row)
            if tip["type"] == "quantitative":
                assert isinstance(row[tip["field"]], int | float)
                assert tip["format"] in (",d", ".4~g")
            else:
                assert isinstance(row[tip["field"]], str)


def test_a_tooltip_names_the_run_by_its_label() -> None:
    spec = charts.specification(charts.entropy_chart(entropy()))
    (point,) = (part for part in spec["layer"] if "tooltip" in part["encoding"])
    first = rows_of(spec, point)[0]
    said = {tip["title"]: first[tip["field"]] for tip in point["encoding"]["tooltip"]}
    assert said["run"] == "A tiny-one"
    assert said["entropy over ln V"] == "0.11"
    assert said["95 % interval"] == "0.05 to 0.2"
    assert said["prefix (tokens)"] == 10


@pytest.mark.parametrize(
    "name", ["profile", "entropy", "cut", "many", "drift by depth", "training"]
)
def test_pointing_at_a_run_dims_the_others(name: str, tmp_path: Path) -> None:
    chart, spec = tipped(name)
    (selection,) = spec["params"]
    assert selection["select"]["fields"] == ["label"]
    for panel in panels_of(spec):
        assert {part.get("name") for part in panel["layer"]} & {*selection["views"]}
    dimmed = [
        part["encoding"]["opacity"] for part in layers_of(spec) if "opacity" in part["encoding"]
    ]
    assert dimmed
    assert all(one["condition"][0]["param"] == selection["name"] for one in dimmed)
    # a picture has nothing selected
    assert f'opacity="{DIM}"' not in Picture(chart, tmp_path).text


def test_differences_are_row_minus_column(tmp_path: Path) -> None:
    runs = MANY[:4]
    page = RunStyles({"x": "x", **{run: run for run in reversed(runs)}})
    spec = charts.specification(
        charts.difference_panels(differences(runs), runs=page)["effective_rank"]
    )
    (fill,) = (part for part in spec["layer"] if "fill" in part["encoding"])
    cells = {(row["y"], row["x"]): row for row in rows_of(spec, fill)}
    # letters go from E, the first run, to B: a run j minus a run k is 2 (j - k)
    assert len(cells) == 4 * 3
    assert cells["E", "B"]["fill"] == -cells["B", "E"]["fill"] == -6
    assert (cells["E", "B"]["interval"], cells["B", "E"]["interval"]) == ("-8 to -4", "4 to 8")
    scale = fill["encoding"]["fill"]["scale"]
    assert scale["domain"] == [-6, 0, 6]
    assert fill["encoding"]["x"]["scale"]["domain"] == ["B", "C", "D", "E"]
    (dots,) = (part for part in spec["layer"] if part["mark"]["type"] == "circle")
    (only,) = (step["filter"] for step in dots["transform"] if "filter" in step)
    marked = {place for place, row in cells.items() if row.get(only["field"]) == only["equal"]}
    assert {*cells} - marked == {(a, b) for a, b in cells if abs(ord(a) - ord(b)) == 1}
    picture = Picture(charts.difference_chart(differences(runs), runs=page), tmp_path)
    assert picture.marks["rect mark"] == 2 * 4 * 3
    assert "3 of 6 differences differ from 0" in picture.label


def test_differences_of_the_fullest_setting_alone() -> None:
    small = differences().with_columns(n_prompts=3, difference=99.0)
    chart = charts.difference_chart(pl.concat([small, differences()], how="vertical_relaxed"))
    assert chart.description == charts.difference_chart(differences()).description
    nothing = charts.difference_chart(differences().clear())
    assert "No differences: the table has no rows." in nothing.description
