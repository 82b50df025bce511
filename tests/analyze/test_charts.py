"""What holds of every chart. Marks are counted in the pictures that they become."""

import re
from pathlib import Path

import polars as pl
import pytest
from chart_frames import (
    Picture,
)
from every_chart import CHARTS, drawn, every, specified

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
        floats = [c for c, kind in frame.schema.items() if lack == "types" or kind == pl.Float64]
        kinds = [pl.Null if lack == "types" else pl.Float64] * len(floats)
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
