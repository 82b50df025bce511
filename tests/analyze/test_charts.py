"""What holds of every chart. Marks are counted in the pictures that they become."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from chart_frames import (
    HOSTILE,
    RUNS,
    Picture,
    checkpoints,
    entropy,
)
from every_chart import CHARTS, drawn, every, panels, specified

import lpp.analyze
from lpp.analyze.charts.profiles import training_curves
from lpp.analyze.charts.run_styles import OTHERS, PALETTE
from lpp.analyze.charts.theme import GREY
from lpp.store.errors import InputError


@pytest.mark.slow
@every
def test_every_value_is_a_mark(name: str, tmp_path: Path) -> None:
    picture = Picture(drawn(name), tmp_path)
    assert dict(picture.marks) == CHARTS[name][2]


@every
def test_a_chart_says_what_it_shows(name: str) -> None:
    spec = specified(name)
    assert spec["title"]["text"]
    assert re.search(r"\d", spec["description"]), "written from the data"
    assert spec["background"] == "transparent"
    if "concat" not in spec:
        assert spec["width"] == "container"


@every
@pytest.mark.parametrize("lack", ["rows", "values", "types"])
def test_what_is_missing_is_said(name: str, lack: str, tmp_path: Path) -> None:
    chart, make, _ = CHARTS[name]
    frame = make()
    if lack == "rows":
        frame = frame.clear()
    else:
        numbers = (pl.Float64, pl.List(pl.Float64))
        floats = [c for c, kind in frame.schema.items() if lack == "types" or kind in numbers]
        kinds = [pl.Null if lack == "types" else frame.schema[c] for c in floats]
        frame = frame.with_columns(
            pl.lit(None, dtype=kind).alias(c) for c, kind in zip(floats, kinds, strict=True)
        )
    picture = Picture(chart(frame), tmp_path)
    assert "point" not in picture.marks
    assert re.search(r"\b[Nn]o\b", picture.label)
    assert any(re.match(r"[Nn]o\b", line) for line in picture.words)


@every
def test_a_table_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"no table .*: the column \w+, .* is missing\. .*FROM"):
        CHARTS[name][0](pl.DataFrame({"model": ["a"]}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["profile", "entropy", "depth", "spectrum"])
def test_hostile_names_are_text(name: str, tmp_path: Path) -> None:
    chart, make, marks = CHARTS[name]
    frame = make()
    hostile = dict(zip(RUNS, HOSTILE, strict=False))
    renamed = frame.with_columns(pl.col("run").replace(hostile))
    picture = Picture(chart(renamed), tmp_path)
    assert dict(picture.marks) == marks
    tags = {element.tag.rpartition("}")[2] for element in picture.root.iter()}
    assert tags <= {"svg", "g", "path", "line", "rect", "text", "tspan", "defs", "clipPath"}
    assert any("<img src=x" in text for text in picture.words)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_in_data_alone(name: str) -> None:
    frame = entropy((name, "plain-00000001"))
    spec = lpp.analyze.entropy_chart(frame).to_dict()
    others = lpp.analyze.entropy_chart(entropy(("a-00000002", "plain-00000001"))).to_dict()
    assert skeleton(spec) == skeleton(others)


def skeleton(part: Any) -> Any:
    """A specification without values: data, domains, and the description."""
    if isinstance(part, dict):
        left_out = ("datasets", "description", "domain", "name", "views")
        return {k: skeleton(v) for k, v in part.items() if k not in left_out}
    return [skeleton(item) for item in part] if isinstance(part, list) else part


def test_a_curve_joins_comparable_checkpoints_by_step() -> None:
    frame = checkpoints()
    curves = training_curves(frame.reverse())
    assert curves["curve"].to_list() == ["tiny-one"] * 5 + ["tiny-two"] * 5
    assert curves["step"].to_list() == [0, 1, 10, 100, 1000] * 2
    # other prompts are another curve, a smaller setting and a second run of one step are left out
    other = frame.head(3).with_columns(
        pl.lit("others").alias("prompt_set"), pl.lit("alpaca").alias("corpus")
    )
    fewer = frame.head(3).with_columns(pl.lit(6, pl.Int32).alias("n_prompts"))
    again = frame.head(1).with_columns(pl.lit("z").alias("run"), pl.lit(9.0).alias("entropy_floor"))
    alone = frame.tail(1).with_columns(pl.lit(None, pl.String).alias("series"))
    cut = frame.tail(1).with_columns(pl.lit(2, pl.Int32).alias("first_position"))
    curves = training_curves(pl.concat([frame, other, fewer, again, alone, cut]))
    counts = dict(curves["curve"].value_counts().iter_rows())
    assert counts == {"tiny-one, alpaca 1": 3, "tiny-one, pydoc 2": 5, "tiny-two": 5}
    assert set(curves["n_prompts"]) == {12}
    assert "z" not in curves["run"]


@pytest.mark.parametrize(
    ("steps", "kind", "domain"),
    [
        ([0, 1, 10, 100, 1000], "symlog", [0, 1150]),
        ([0, 10, 20, 30, 40], None, None),
        ([5, 10, 100, 200, 1000], "log", [5 / 1.15, 1150]),
        ([1000, 2000, 3000, 4000, 5000], None, None),
    ],
)
def test_steps_that_span_two_decades_are_on_a_log_axis(
    steps: list[int], kind: str | None, domain: list[float] | None
) -> None:
    frame = checkpoints(("one",)).with_columns(step=pl.Series(steps))
    for panel in panels(lpp.analyze.training_chart(frame)):
        x = panel["layer"][0]["encoding"]["x"]
        assert x["scale"].get("type") == kind
        assert x["scale"].get("domain") == pytest.approx(domain)
        assert ("(log)" in x["title"]) is (kind is not None)


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("color", [*PALETTE, *OTHERS, GREY])
@pytest.mark.parametrize("paper", ["#FFFFFF", "#1A1A1A"])
def test_marks_stand_out_on_both_papers(color: str, paper: str) -> None:
    assert contrast(color, paper) >= 3


MACHADO = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip
"""Total dichromacy in linear RGB; Machado, Oliveira and Fernandes 2009."""


@pytest.mark.parametrize("colors", [PALETTE, OTHERS])
@pytest.mark.parametrize("kind", MACHADO)
def test_no_two_colors_are_one_to_a_dichromat(kind: str, colors: tuple[str, ...]) -> None:
    seen = []
    for color in colors:
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        seen.append(lab(np.clip(np.array(MACHADO[kind]) @ linear, 0, 1)))
    apart_by = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(apart_by) > 10  # CIE 1976; about 2 can just be told apart


def lab(linear: Any) -> Any:
    """CIELAB of linear sRGB, white at D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = np.array(to_xyz) @ linear / [0.9505, 1, 1.089]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
