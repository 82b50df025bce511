"""One letter, name and colour for each run of a page, whichever charts it is in."""

import itertools
from typing import Any

import polars as pl
import pytest
from chart_frames import (
    RUNS,
    drift_sites,
    entropy,
    layers,
    pair_sites,
    profiles,
)

import lpp.analyze
from lpp.analyze.charts.run_styles import PALETTE, RunStyles
from lpp.analyze.report.answers import Answer
from lpp.analyze.report.charts import page_styles
from lpp.analyze.report.queries import PLANS, PROFILES

PAGE = RunStyles({"other-00000000": "other", RUNS[2]: "six", RUNS[0]: "one", RUNS[1]: "two"})


def test_a_style_goes_by_the_place_on_the_page() -> None:
    assert PAGE.order == ("other-00000000", RUNS[2], RUNS[0], RUNS[1])
    assert (PAGE.letter(RUNS[0]), PAGE.name(RUNS[0]), PAGE.label(RUNS[0])) == ("C", "one", "C one")
    assert PAGE.color(RUNS[0]) == PALETTE[2]
    with pytest.raises(KeyError):
        PAGE.letter("no-such-run")


def labelled(part: Any) -> set[str]:
    """Every text in `part` that begins with a letter of a run."""
    texts = {value for row in part for value in row.values() if isinstance(value, str)}
    return {text for text in texts if text[1:2] == " " and text[0].isupper()}


@pytest.mark.parametrize(
    "chart",
    [
        lpp.analyze.profile_chart(profiles(RUNS[:1]), runs=PAGE),
        lpp.analyze.entropy_chart(entropy(RUNS[:1]), runs=PAGE),
        lpp.analyze.depth_chart(layers(RUNS[:1]), runs=PAGE),
        lpp.analyze.drift_depth_chart(pair_sites(RUNS[:1]), runs=PAGE),
        lpp.analyze.drift_grid_chart(drift_sites(RUNS[:1]), runs=PAGE),
    ],
)
def test_a_run_alone_keeps_its_letter(chart: Any) -> None:
    spec = chart.to_dict()
    assert labelled(itertools.chain(*spec["datasets"].values())) == {"C one"}
    scales = [
        layer["encoding"]["color"]["scale"]
        for panel in spec.get("concat", [spec])
        for layer in panel.get("layer", [])
        if "scale" in layer["encoding"].get("color", {})
    ]
    assert all((s["domain"], s["range"]) == (["C one"], [PALETTE[2]]) for s in scales)


def test_the_first_run_of_a_pair_has_the_letter_of_its_page() -> None:
    page = RunStyles({RUNS[0]: "one", "base-00000000": "base"})
    chart = lpp.analyze.drift_depth_chart(pair_sites(RUNS[:1]), runs=page)
    assert chart.concat[0].title.subtitle[0] == "Compared with B base"
    two = pl.concat(
        [pair_sites(RUNS[:1]), pair_sites(RUNS[:1]).with_columns(run_a=pl.lit(RUNS[1]))]
    )
    spec = lpp.analyze.drift_depth_chart(two, runs=page).to_dict()
    labels = {row.get("label") for row in itertools.chain(*spec["datasets"].values())}
    assert {"B→A one", "C→A one"} <= labels


def answers(names: dict[str, str | None], profiled: tuple[str, ...] = ()) -> dict[str, Answer]:
    frame = pl.DataFrame({"run": list(names), "name": list(names.values())})
    return {
        PLANS.name: Answer(PLANS, frame),
        PROFILES.name: Answer(PROFILES, profiles(profiled)),
        "missing": Answer(PROFILES, pl.DataFrame(), "no such table"),
    }


def test_a_page_names_its_runs_as_the_database_does() -> None:
    names: dict[str, str | None] = {"z": "m", "a": "untrained, seed 3", "o": None}
    styles = page_styles(answers(names, profiled=("b", "z")))
    labels = [styles.label(run) for run in styles.order]
    assert labels == ["A m", "B untrained, seed 3", "C o", "D b"]
