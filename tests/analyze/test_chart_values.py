"""Values in charts: those of the table, intervals, settings, missing numbers, what is left out."""

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
    eigenvalues,
    entropy,
    layers,
    pair_sites,
    probes,
    profiles,
    table,
)
from every_chart import CHARTS, Chart, drawn, every, marks, panels, rows

from lpp.analyze import (
    cka_chart,
    depth_chart,
    drift_depth_chart,
    entropy_chart,
    probe_depth_chart,
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


def test_bars_are_explained_where_there_are_any() -> None:
    assert "Bars: 95 % intervals" in notes(profile_chart(profiles()).to_dict())
    without, with_bars = panels(depth_chart(layers()))
    assert "Bars: 95 % intervals" in notes(with_bars)
    assert "Bars" not in notes(without)
    bare = profiles().drop([c for c in profiles().columns if c.endswith("_ci_low")])
    assert "Bars" not in notes(profile_chart(bare).to_dict())


def test_each_run_at_its_fullest_setting() -> None:
    both = profile_chart(pl.concat([profiles(n_prompts=4), profiles()]))
    assert len(rows(panels(both)[0])) == 3
    assert "context 200 tokens, 12 prompts" in notes(both.to_dict())
    assert "3 smaller settings are left out" in notes(both.to_dict())


def test_zero_is_a_value_and_null_is_told() -> None:
    frame = layers().with_columns(
        effective_rank=pl.when(pl.col("site") != "block.3").then("effective_rank")
    )
    panel = panels(depth_chart(frame))[1]
    assert "3 of 18 points have no value." in notes(panel)
    at_embed = [row for row in rows(panel) if row["site"] == "embed"]
    assert [row["relative_depth"] for row in at_embed] == [0.0] * 3


def test_a_log_axis_has_no_zero_and_a_note_says_so() -> None:
    same = pair_sites(RUNS[:1]).with_columns(
        relative_distance=pl.Series([0.0, 0.01, 0.02]),
        relative_distance_ci_low=pl.Series([0.0, 0.008, -0.001]),
        cka=pl.Series([1.0, 0.99, None]),
    )
    distance, cka = panels(drift_depth_chart(same))
    assert [(row["depth"], row["value"]) for row in rows(distance)] == [(1, 0.01), (1.15, 0.02)]
    assert [row.get("low") for row in rows(distance)] == [0.008, None]  # -0.001 is on no log axis
    assert [row["value"] for row in rows(cka)] == pytest.approx([0.01])
    assert "1 of 3 points are 0" in notes(distance)
    assert "1 of 3 points have no value" in notes(cka)


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
    shown = (pl.col("rank") < 8) | (pl.col("site") != "final")
    spectra = spectra.with_columns(share=pl.when(shown).then("share").otherwise(0.0))
    (panel,) = panels(spectrum_chart(spectra))
    assert len(rows(panel)) == 3 * 7
    assert "final, prefix 40 tokens" in notes(panel)


@pytest.mark.slow
def test_large_stores_give_small_charts() -> None:
    runs = tuple(f"a-model-with-a-name-of-its-own-{k:02d}-{k:08x}" for k in range(20))
    for chart in (spectrum_chart(eigenvalues(runs, n=4096)), entropy_chart(entropy(runs))):
        assert len(json.dumps(chart.to_dict())) < 250_000


def test_neighbours_are_a_row_for_each_run(tmp_path: Path) -> None:
    picture = Picture(cka_chart(cka()), tmp_path)
    assert {"0.90", "0.78", "0.65", "embed", "block.1", "block.2"} <= {*picture.words}
    assert "block.2 and final of A tiny-one: 0.65; " in picture.label
    longest = pl.concat([cka(), cka().with_columns(prefix=pl.lit(50, pl.Int32), cka=0.5)])
    assert cka_chart(longest).description == cka_chart(cka()).description


def test_every_two_sites_are_a_square_for_each_run() -> None:
    assert len(panels(cka_chart(cka(every=True)))) == 3
    (square,) = panels(cka_chart(cka(("tiny-one",), every=True)))
    (cells,) = marks(square, "rect")
    of_pair = {(row["x"], row["y"]): row["value"] for row in cells["rows"]}
    assert len(of_pair) == 12
    assert of_pair["embed", "final"] == of_pair["final", "embed"] == 0.65
    assert cells["encoding"]["x"]["scale"]["domain"] == ["embed", "block.1", "block.2", "final"]
    nothing = cka_chart(cka().with_columns(cka=pl.lit(None, pl.Float64)))
    assert "none of them with a value" in nothing.description


def test_numbers_that_are_none_are_no_values() -> None:
    frame = table("entropy", [{"run": "a", "context": 4, "n_prompts": 1, "prefix": 4}])
    for value in (float("nan"), float("inf")):
        chart = entropy_chart(frame.with_columns(entropy_norm=pl.lit(value)))
        assert "none of them with a value" in chart.description


def test_controls_are_bands_and_named_lines() -> None:
    frame = probes()
    controls = frame.filter(role="control").sort("probe_auroc", descending=True)
    (panel,) = panels(probe_depth_chart(frame))
    for end in ("low", "high"):
        ends = controls[f"probe_auroc_ci_{end}"].to_list()
        assert [row[end] for row in rows(panel, "rect")] == pytest.approx(ends, rel=1e-5)
    named = [(row["name"], row["value"]) for row in rows(panel, "rule")]
    assert named == controls.select("probe", pl.col("probe_auroc").round_sig_figs(6)).rows()
    assert [row["text"] for row in rows(panel, "text")] == controls["probe"].to_list()
