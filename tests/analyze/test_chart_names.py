"""Names in charts: labels and letters of runs, and names that mean something to a picture."""

from pathlib import Path
from typing import Any

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
