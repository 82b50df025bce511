"""Values in charts: intervals, settings, missing numbers, and what is left out."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from chart_frames import (
    RUNS,
    Picture,
    cka,
    cut_layers,
    eigenvalues,
    entropy,
    layers,
    profiles,
    table,
)
from every_chart import Chart

from lpp.analyze.charts import charts
from lpp.analyze.charts.profiles import thinned
from lpp.analyze.charts.run_styles import DASHES, PALETTE


def test_a_second_curve_is_without_the_first_positions(tmp_path: Path) -> None:
    runs = RUNS[:2]
    picture = Picture(charts.depth_chart(cut_layers(runs)), tmp_path)
    # two panels of two curves a run; in each a cross and, of each run, a dagger
    assert dict(picture.marks) == {"line mark": 8, "point": 48, "text mark": 2 + 4}
    for words in ("A", "A-2", "B-2", "all positions", "without the first 2", "†"):
        assert words in picture.words
    assert any("-2: without the first 2 positions of each prompt." in w for w in picture.words)
    assert "B-2 tiny-two, without the first 2: 12.5 at depth 0, 17.5 at final" in picture.label
    assert "Layers with attention sinks: 2." in picture.label
    colors = legend(charts.depth_panels(cut_layers(runs)))
    assert colors == {"A tiny-one": PALETTE[0], "B tiny-two": PALETTE[1]}
    spec = charts.specification(charts.depth_panels(cut_layers(runs))["effective_rank"])
    (dash,) = (
        layer["encoding"]["strokeDash"]
        for layer in spec["layer"]
        if "strokeDash" in layer["encoding"]
    )
    assert dash["scale"]["domain"] == ["all positions", "without the first 2"]
    assert dash["scale"]["range"] == [*DASHES[:2]]


def legend(panels: Any) -> dict[str, str]:
    """The colour of each curve of the first panel, by its label."""
    spec = charts.specification(next(iter(panels.values())))
    (scale,) = {
        json.dumps(found)
        for layer in spec["layer"]
        for found in [layer["encoding"].get("color", {}).get("scale")]
        if isinstance(found, dict)
    }
    found = json.loads(scale)
    return dict(zip(found["domain"], found["range"], strict=True))


@pytest.mark.parametrize(
    ("chart", "frame"),
    [(charts.profile_chart, profiles()), (charts.spectrum_chart, eigenvalues())],
)
def test_other_first_positions_are_left_out(chart: Chart, frame: pl.DataFrame) -> None:
    whole = frame.with_columns(first_position=pl.lit(0, pl.Int32))
    cut = frame.with_columns(first_position=pl.lit(2, pl.Int32))
    drawn, expected = chart(pl.concat([cut, whole])), chart(frame)
    assert drawn.description == expected.description


def test_intervals_and_their_numbers() -> None:
    panel = charts.profile_panels(profiles())["effective_rank"]
    assert "A tiny-one: 20.12 (95 % 19.62 to 20.88)" in panel.description
    row = next(r for r in rows_of(panel) if r.get("label") == "A tiny-one")
    assert (row["value"], row["low"], row["high"]) == (20.125, 19.625, 20.875)
    assert (row["told"], row["interval"]) == ("20.12 ± 0.25", "19.62 to 20.88")
    assert row["flags"] == "small_sample"
    without = profiles().drop("effective_rank_ci_low")
    bare = rows_of(charts.profile_panels(without)["effective_rank"])
    assert [row["low"] for row in bare if "label" in row] == [None] * 3


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """Every row of data in `chart`."""
    return list(itertools.chain(*charts.specification(chart)["datasets"].values()))


def test_bars_are_explained_where_there_are_any() -> None:
    def notes(chart: Any) -> str:
        return " ".join(charts.specification(chart)["title"].get("subtitle", []))

    assert "Bars: 95 % intervals" in notes(charts.profile_chart(profiles()))
    assert "Bars: 95 % intervals" in notes(charts.depth_panels(layers())["effective_rank"])
    assert "Bars" not in notes(charts.depth_panels(layers())["participation_ratio"])
    bare = profiles().drop([c for c in profiles().columns if c.endswith("_ci_low")])
    assert "Bars" not in notes(charts.profile_chart(bare))


def test_each_run_at_its_fullest_setting() -> None:
    small = profiles(n_prompts=4)
    chart = charts.profile_panels(pl.concat([small, profiles()]))["entropy_floor"]
    assert {row["n_prompts"] for row in rows_of(chart) if "label" in row} == {12}
    whole = charts.specification(charts.profile_chart(pl.concat([small, profiles()])))
    assert "3 smaller settings are left out." in whole["title"]["subtitle"]


def test_zero_is_a_value_and_null_is_told() -> None:
    frame = layers().with_columns(
        effective_rank=pl.when(pl.col("site") != "block.3").then("effective_rank")
    )
    panel = charts.depth_panels(frame)["effective_rank"]
    assert "3 of 18 points have no value." in charts.specification(panel)["title"]["subtitle"]
    at_embed = [row for row in rows_of(panel) if row.get("site") == "embed"]
    assert [row["place"] for row in at_embed] == [0.0] * 3


def test_collapsed_layers_are_crossed(tmp_path: Path) -> None:
    picture = Picture(charts.depth_panels(layers())["effective_rank"], tmp_path)
    assert picture.words.count("×") == 1
    assert "Collapsed layers: 1." in picture.label


def test_thinning_keeps_the_ends_and_the_first_five() -> None:
    thin = thinned(eigenvalues(n=4096))
    for part in thin.partition_by("run"):
        ranks = part["rank"].to_list()
        assert len(ranks) <= 60
        assert ranks[:5] == [1, 2, 3, 4, 5]
        assert ranks[-1] == 4096
        steps = np.diff(np.log(ranks))
        assert steps[20:].max() < 0.2  # evenly spaced where every rank no longer fits
    assert thinned(thin).equals(thin)
    assert thinned(eigenvalues(n=5)).equals(eigenvalues(n=5))


def test_a_spectrum_of_the_deepest_site_without_zeros() -> None:
    spectra = pl.concat([eigenvalues(n=8), eigenvalues(n=8, site="block.4")])
    spectra = spectra.with_columns(
        share=pl.when((pl.col("rank") < 8) | (pl.col("site") != "final"))
        .then("share")
        .otherwise(0.0)
    )
    points = [row for row in rows_of(charts.spectrum_chart(spectra)) if "eigenvalue" in row]
    assert len(points) == 3 * 7
    assert {row["site"] for row in rows_of(charts.spectrum_chart(spectra)) if "site" in row} == {
        "final"
    }


@pytest.mark.slow
def test_large_stores_give_small_charts() -> None:
    runs = tuple(f"a-model-with-a-name-of-its-own-{k:02d}-{k:08x}" for k in range(20))
    sizes = {
        "spectrum": charts.spectrum_chart(eigenvalues(runs, n=4096)),
        "entropy": charts.entropy_chart(entropy(runs)),
    }
    for name, chart in sizes.items():
        assert len(charts.embedded(charts.specification(chart))) < 200_000, name


def test_neighbours_are_a_row_for_each_run(tmp_path: Path) -> None:
    picture = Picture(charts.cka_chart(cka()), tmp_path)
    assert {"0.90", "0.78", "0.65", "none"} <= {*picture.words}
    assert {"embed", "block.1", "block.2"} <= {*picture.words}
    assert "block.2 and final of A tiny-one: 0.65. " in picture.label
    longest = pl.concat([cka(), cka().with_columns(prefix=pl.lit(50, pl.Int32), cka=0.5)])
    assert charts.cka_chart(longest).description == charts.cka_chart(cka()).description


def test_every_two_sites_are_a_square_for_each_run() -> None:
    names = [*charts.cka_panels(cka(every=True))]
    assert names == ["cka-1", "cka-2", "cka-3"]
    (square,) = charts.cka_panels(cka(("tiny-one",), every=True)).values()
    spec = charts.specification(square)
    (cells,) = (part for part in spec["layer"] if "strokeDash" not in part["mark"])
    of_pair = {(row["x"], row["y"]): row["fill"] for row in spec["datasets"][cells["data"]["name"]]}
    assert len(of_pair) == 12
    assert of_pair["embed", "final"] == of_pair["final", "embed"] == 0.65
    nothing = charts.cka_chart(cka().with_columns(cka=pl.lit(None, pl.Float64)))
    assert "none of them with a value" in nothing.description


def test_numbers_that_are_none_are_no_values() -> None:
    frame = table("entropy", [{"run": "a", "context": 4, "n_prompts": 1, "prefix": 4}])
    for value in (float("nan"), float("inf")):
        chart = charts.entropy_chart(frame.with_columns(entropy_norm=pl.lit(value)))
        assert "none of them with a value" in chart.description
