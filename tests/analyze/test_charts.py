"""Charts: what they draw, say and hold. Marks are counted in the pictures that they become."""

import itertools
import json
import re
from collections.abc import Callable
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
    correlations,
    cut_layers,
    drift_sites,
    eigenvalues,
    entropy,
    item_features,
    item_reliability,
    item_risk,
    layers,
    pair_bins,
    pair_positions,
    pair_sites,
    profiles,
    published,
    sensitivity,
    table,
)

from lpp.analyze.charts import charts
from lpp.analyze.charts.curves import thinned
from lpp.analyze.charts.lines import apart
from lpp.analyze.charts.rows import series_of
from lpp.analyze.charts.run_styles import DASHES, PALETTE, SHAPES
from lpp.analyze.charts.theme import FILLS, GREY, INK, ON_FILL
from lpp.store.errors import InputError

Chart = Callable[[pl.DataFrame], Any]
CHARTS: dict[str, tuple[Chart, Callable[[], pl.DataFrame], dict[str, int]]] = {
    "profile": (charts.profile_chart, profiles, {"point": 15}),
    "entropy": (charts.entropy_chart, entropy, {"line mark": 3, "point": 12}),
    "depth": (charts.depth_chart, layers, {"line mark": 6, "point": 36, "text mark": 2}),
    "spectrum": (charts.spectrum_chart, eigenvalues, {"line mark": 3, "point": 117}),
    "training": (
        charts.training_chart,
        checkpoints,
        {"line mark": 6, "point": 30, "text mark": 2},
    ),
    "sensitivity": (charts.sensitivity_chart, sensitivity, {"rect mark": 12}),
    "drift": (charts.drift_grid_chart, drift_sites, {"rect mark": 9}),
    "drift by depth": (charts.drift_depth_chart, pair_sites, {"line mark": 6, "point": 18}),
    "drift by position": (
        charts.drift_positions_chart,
        pair_positions,
        {"line mark": 3, "point": 12},
    ),
    "spread of drift": (charts.drift_histogram_chart, pair_bins, {"line mark": 3, "point": 12}),
    "items by depth": (charts.item_depth_chart, item_features, {"line mark": 2, "point": 6}),
    "reliability": (charts.reliability_chart, item_reliability, {"point": 3}),
    "risk": (charts.risk_chart, item_risk, {"line mark": 1, "point": 4}),
    "correlation": (charts.correlation_chart, correlations, {"rect mark": 4}),
}
"""Each chart, the frame it takes, and the marks that hold its values."""

every = pytest.mark.parametrize("name", CHARTS)


def drawn(name: str) -> Any:
    chart, frame, _ = CHARTS[name]
    return chart(frame())


@every
def test_every_value_is_a_mark(name: str, tmp_path: Path) -> None:
    picture = Picture(drawn(name), tmp_path)
    assert dict(picture.marks) == CHARTS[name][2]


@every
def test_a_chart_says_what_it_shows(name: str) -> None:
    chart = drawn(name)  # `to_dict` checks it against the schema of Vega-Lite
    spec = charts.specification(chart)
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
    spec = charts.specification(drawn(name))
    assert ("concat" in spec) or picture.root.attrib["width"] == "390"


@pytest.mark.parametrize(
    "chart", [charts.profile_chart(profiles(), columns=1), charts.depth_chart(layers(), columns=1)]
)
def test_one_column_fits_a_telephone(chart: Any, tmp_path: Path) -> None:
    assert float(Picture(chart, tmp_path).root.attrib["width"]) <= 390


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


@pytest.mark.slow
@every
def test_a_chart_is_the_same_twice(name: str) -> None:
    first, second = (charts.embedded(charts.specification(drawn(name))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ["profile", "entropy", "depth", "spectrum", "sensitivity"])
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
    spec = charts.specification(charts.entropy_chart(frame))
    others = charts.specification(charts.entropy_chart(entropy(("a-00000002", "plain-00000001"))))
    assert skeleton(spec) == skeleton(others)
    found, usual = (
        charts.specification(charts.correlation_chart(correlations((benchmark, "BBH"))))
        for benchmark in (name, "IFEval")
    )
    assert skeleton(found) == skeleton(usual)


def skeleton(part: Any) -> Any:
    """A specification without values: data, domains, and the description."""
    if isinstance(part, dict):
        left_out = ("datasets", "description", "domain", "name", "views")
        return {k: skeleton(v) for k, v in part.items() if k not in left_out}
    return [skeleton(item) for item in part] if isinstance(part, list) else part


def test_what_cannot_be_printed_is_replaced(tmp_path: Path) -> None:
    picture = Picture(charts.entropy_chart(entropy((HOSTILE[-1],))), tmp_path)
    assert "A line\ufffdbreak\ufffdand\ufffdturn" in picture.words


def test_published_models_stand_below_in_grey(tmp_path: Path) -> None:
    panels = charts.profile_panels(profiles(), published())
    entropy_floor = Picture(panels["entropy_floor"], tmp_path)
    assert entropy_floor.marks["point"] == 3 + 2
    assert "* published-1" in entropy_floor.words
    assert entropy_floor.text.count(f'stroke="{GREY}"') >= 2 * 2  # a mark and a rule for each
    assert Picture(panels["effective_rank"], tmp_path).marks["point"] == 3  # has no dimensions
    assert "Published org/published-0: 0.5" in entropy_floor.label


def test_intervals_and_their_numbers(tmp_path: Path) -> None:
    panel = charts.profile_panels(profiles())["effective_rank"]
    assert "A tiny-one: 20.12 (95 % 19.62 to 20.88)" in panel.description
    row = next(r for r in rows_of(panel) if r.get("run") == RUNS[0])
    assert (row["value"], row["low"], row["high"], row["stderr"]) == (20.125, 19.625, 20.875, 0.25)
    assert row["flags"] == "small_sample"
    without = profiles().drop("effective_rank_ci_low")
    bare = rows_of(charts.profile_panels(without)["effective_rank"])
    assert [row["low"] for row in bare if "run" in row] == [None] * 3


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """Every row of data in `chart`."""
    return list(itertools.chain(*charts.specification(chart)["datasets"].values()))


def test_bars_are_explained_where_there_are_any() -> None:
    def notes(chart: Any) -> str:
        return " ".join(charts.specification(chart)["title"].get("subtitle", []))

    assert "Bars: 95 % intervals" in notes(charts.profile_chart(profiles()))
    assert "Bars: one standard error" in notes(charts.depth_panels(layers())["effective_rank"])
    assert "Bars" not in notes(charts.depth_panels(layers())["participation_ratio"])
    bare = profiles().drop([c for c in profiles().columns if c.endswith("_ci_low")])
    assert "Bars" not in notes(charts.profile_chart(bare))


def test_each_run_at_its_fullest_setting() -> None:
    small = profiles(n_prompts=4)
    chart = charts.profile_panels(pl.concat([small, profiles()]))["entropy_floor"]
    assert {row["n_prompts"] for row in rows_of(chart) if "run" in row} == {12}
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


def test_lines_have_their_letters(tmp_path: Path) -> None:
    words = Picture(charts.entropy_chart(entropy()), tmp_path).words
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
    _, label = series_of(["m-00000001", "m-00000002", "other-00000003"])
    assert list(label.values()) == ["A m-00000001", "B m-00000002", "C other"]
    _, label = series_of([f"{'x' * 30}-{k}{'y' * 30}" for k in range(3)])
    assert len(set(label.values())) == 3


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


def test_large_stores_give_small_charts() -> None:
    runs = tuple(f"a-model-with-a-name-of-its-own-{k:02d}-{k:08x}" for k in range(20))
    sizes = {
        "spectrum": charts.spectrum_chart(eigenvalues(runs, n=4096)),
        "entropy": charts.entropy_chart(entropy(runs)),
    }
    for name, chart in sizes.items():
        assert len(charts.embedded(charts.specification(chart))) < 200_000, name


def test_cells_hold_their_numbers(tmp_path: Path) -> None:
    picture = Picture(charts.correlation_chart(correlations()), tmp_path)
    assert {"+0.25", "n 8", "q 0.12", "−0.50", "q 0.19", "none"} <= set(picture.words)
    grid = Picture(charts.sensitivity_chart(sensitivity()), tmp_path)
    assert {"40", "± 0.5", "+0 %", "−50 %"} <= set(grid.words)
    assert "6 prompts of A tiny-one, context 50: 20 ± 0.5 −50 %" in grid.label


def test_sources_never_share_a_row(tmp_path: Path) -> None:
    two = pl.concat([correlations(), correlations().with_columns(source=pl.lit("other"))])
    picture = Picture(charts.correlation_chart(two), tmp_path)
    assert picture.marks["rect mark"] == 8
    assert {"BBH score mine", "BBH score other"} <= set(picture.words)
    one = Picture(charts.correlation_chart(two, source="other"), tmp_path)
    assert one.marks["rect mark"] == 4


def test_benchmarks_that_shorten_alike_stay_apart(tmp_path: Path) -> None:
    names = tuple(f"{'a' * 20}{k}{'b' * 20}" for k in range(2))
    picture = Picture(charts.correlation_chart(correlations(names)), tmp_path)
    assert picture.marks["rect mark"] == 4


def test_an_unknown_metric_is_told() -> None:
    chart = charts.sensitivity_chart(sensitivity(), "no_such_metric")
    assert "Metrics there are: effective_rank." in chart.description


def test_numbers_that_are_none_are_no_values() -> None:
    frame = table("entropy", [{"run": "a", "context": 4, "n_prompts": 1, "prefix": 4}])
    for value in (float("nan"), float("inf")):
        chart = charts.entropy_chart(frame.with_columns(entropy_norm=pl.lit(value)))
        assert "none of them with a value" in chart.description


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_known_colors() -> None:
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("color", [*PALETTE, GREY])
@pytest.mark.parametrize("paper", ["#FFFFFF", "#1A1A1A"])
def test_marks_stand_out_on_both_papers(color: str, paper: str) -> None:
    assert contrast(color, paper) >= 3


@pytest.mark.parametrize("fill", FILLS)
def test_numbers_in_cells_are_legible(fill: str) -> None:
    assert contrast(ON_FILL, fill) >= 7


MACHADO = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip
"""Total dichromacy in linear RGB; Machado, Oliveira and Fernandes 2009."""


@pytest.mark.parametrize("kind", MACHADO)
def test_no_two_colors_are_one_to_a_dichromat(kind: str) -> None:
    seen = []
    for color in PALETTE:
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


def test_a_run_has_a_shape_and_a_dash_besides_its_color() -> None:
    looks = [(k % len(PALETTE), k % len(SHAPES), k % len(DASHES)) for k in range(60)]
    assert len(set(looks)) == 60
    assert len({look[:2] for look in looks[:35]}) == 35


@every
def test_nothing_but_data_has_a_color_of_its_own(name: str) -> None:
    spec = charts.specification(drawn(name))
    config = json.dumps(spec["config"])
    assert set(re.findall(r"#[0-9A-Fa-f]{6}", config)) == {GREY}  # the faint grid
    assert INK in config


def test_a_curve_joins_comparable_checkpoints_by_step() -> None:
    frame = checkpoints()
    curves = charts.training_curves(frame.reverse())
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
    curves = charts.training_curves(pl.concat([frame, other, fewer, again, alone, cut]))
    counts = dict(curves["curve"].value_counts().iter_rows())
    assert counts == {"tiny-one, alpaca 1": 3, "tiny-one, pydoc 2": 5, "tiny-two": 5}
    assert set(curves["n_prompts"]) == {12}
    assert "z" not in curves["run"]


@pytest.mark.parametrize(
    ("steps", "kind", "domain"),
    [
        ([0, 1, 10, 100, 1000], "symlog", [0, 1150]),
        ([0, 10, 20, 30, 40], None, [-1.2, 41.2]),
        ([5, 10, 100, 200, 1000], "log", [5 / 1.15, 1150]),
        ([1000, 2000, 3000, 4000, 5000], None, [880, 5120]),
    ],
)
def test_steps_that_span_two_decades_are_on_a_log_axis(
    steps: list[int], kind: str | None, domain: list[float]
) -> None:
    frame = checkpoints(("one",)).with_columns(step=pl.Series(steps))
    for panel in charts.training_panels(frame).values():
        x = charts.specification(panel)["layer"][0]["encoding"]["x"]
        assert x["scale"].get("type") == kind
        assert x["scale"]["domain"] == pytest.approx(domain)
        assert ("(log)" in x["title"]) is (kind is not None)


def test_a_training_says_what_it_shows(tmp_path: Path) -> None:
    picture = Picture(charts.training_chart(checkpoints()), tmp_path)
    assert "Profiles along the training" in picture.words
    assert "final, context 200 tokens, 12 prompts" in picture.words
    assert "A tiny-one: 0.125 at step 0, 4.125 at step 1,000" in picture.label
    assert sum("\u00d7 above a point: collapsed." in w for w in picture.words) == 2  # of ranks
