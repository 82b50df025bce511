"""What holds of every chart. Marks are counted in the pictures that they become."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chart_frames import (
    Picture,
    layers,
    profiles,
)
from every_chart import CHARTS, drawn, every, specified

import lpp.analyze
from lpp.store.errors import InputError


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


@pytest.mark.slow
@every
def test_titles_and_labels_fit_a_telephone(name: str, tmp_path: Path) -> None:
    picture = Picture(drawn(name), tmp_path, width=390)
    long = [line for text in picture.words for line in text.split("\n") if len(line) > 56]
    assert long == []
    assert ("concat" in specified(name)) or picture.root.attrib["width"] == "390"


@pytest.mark.parametrize(
    ("chart", "frame"), [(lpp.analyze.profile_chart, profiles), (lpp.analyze.depth_chart, layers)]
)
def test_one_column_fits_a_telephone(chart: Any, frame: Any, tmp_path: Path) -> None:
    picture = Picture(chart(frame(), columns=1), tmp_path)
    assert float(picture.root.attrib["width"]) <= 390


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
def test_one_row_is_enough(name: str, tmp_path: Path) -> None:
    chart, make, _ = CHARTS[name]
    assert sum(Picture(chart(make().head(1)), tmp_path).marks.values()) >= 1


@every
def test_a_table_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"no table .*: the column \w+, .* is missing\. .*FROM"):
        CHARTS[name][0](pl.DataFrame({"model": ["a"]}))


@pytest.mark.slow
@every
def test_a_chart_is_the_same_twice(name: str) -> None:
    chart, make, _ = CHARTS[name]
    assert chart(make()).to_dict() == chart(make()).to_dict()
