"""Names in charts: labels and letters of runs, and names that mean something to a picture."""

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
    entropy,
)
from every_chart import CHARTS

import lpp.analyze
from lpp.analyze.charts.marks import apart


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


def test_what_cannot_be_printed_is_replaced(tmp_path: Path) -> None:
    picture = Picture(lpp.analyze.entropy_chart(entropy((HOSTILE[-1],))), tmp_path)
    assert "A line\ufffdbreak\ufffdand\ufffdturn" in picture.words


def test_lines_have_their_letters(tmp_path: Path) -> None:
    words = Picture(lpp.analyze.entropy_chart(entropy()), tmp_path).words
    assert sorted(word for word in words if re.fullmatch("[A-Z]", word)) == ["A", "B", "C"]
    assert {"A tiny-one", "B tiny-six", "C tiny-two"} <= set(words)  # the legend


def test_letters_do_not_overlap() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 20):
        places = apart(sorted(rng.uniform(0.9, 1.0, n)), 1 / 22)
        assert np.all(np.diff(places) >= 1 / 22 - 1e-12)
        assert max(places) <= 1
        assert min(places) >= 0


def test_a_hash_stays_where_names_are_alike() -> None:
    some = ("m-00000001", "m-00000002", "other-00000003")
    assert legend(some) == ["A m-00000001", "B m-00000002", "C other"]
    assert len({*legend(tuple(f"{'x' * 30}-{k}{'y' * 30}" for k in range(3)))}) == 3


def legend(runs: tuple[str, ...]) -> list[str]:
    """What the legend of a chart calls `runs`."""
    spec = lpp.analyze.entropy_chart(entropy(runs)).to_dict()
    encodings = (layer["encoding"] for layer in spec["layer"])
    return next([*one["color"]["scale"]["domain"]] for one in encodings if "color" in one)
