"""What tells items that flip: known effects, none, and every number by plain arithmetic."""

import json
import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from evaluated_items import EvaluatedRun, row_at
from flipped_items import TASK, TwoRuns, two_runs
from made_runs import Made, MakeRun
from scipy.special import log_softmax

import lpp.analyze
from lpp.analyze import ItemsSettings
from lpp.analyze.cli.command import main
from lpp.analyze.drift.pair import Pair, pair_of
from lpp.analyze.drift.predictions import drift_at, token_drift
from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.flip_analysis import RANKED, WITH_CHOICES
from lpp.analyze.evaluations.flip_features import drift_features, row_change
from lpp.analyze.evaluations.flips import flips
from lpp.analyze.evaluations.lens import OF_ITEMS
from lpp.analyze.evaluations.tables import FLIP_KINDS, ItemAnalysis, feature_columns
from lpp.analyze.numerics.statistics.association import benjamini_hochberg
from lpp.analyze.numerics.statistics.auroc import auroc, residual_ranks
from lpp.analyze.quantities.items import DRIFT_FEATURES
from lpp.analyze.quantities.tables import frame_schema
from lpp.store import open_store
from lpp.store.objects.locate import objects_at
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import HeadContent
from lpp.store.shared.matrices import Matrix

WEIGHT: Final = (np.random.default_rng(0).normal(size=(50, 6)) / 4).astype(np.float32)
"""Of the head of both runs, (vocabulary, columns of `final`)."""


def distance(a: Made, b: Made, site: str, prompt: int, answer: int) -> float:
    before, after = row_at(a, site, prompt, answer), row_at(b, site, prompt, answer)
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


def where_it_moved(a: Made, b: Made, prompt: int, answer: int) -> bool:
    """Flips where the row of `final` moved far; noisy."""
    noise = np.random.default_rng(prompt).normal(0, 0.3)
    return distance(a, b, "final", prompt, answer) + float(noise) > 1.4


@pytest.fixture(scope="module")
def written(make_shared_run: MakeRun) -> TwoRuns:
    made = two_runs(make_shared_run, right=lambda item: item % 6 > 0, flips=where_it_moved)
    head = HeadContent(matrix=Matrix(dtype="float32", weight=WEIGHT))
    for run in (made.a.made, made.b.made):
        commit_head(objects_at(made.root), run.plan, head)
    return made


@pytest.fixture(scope="module")
def found(written: TwoRuns) -> ItemAnalysis:
    return lpp.analyze.flipped_items(written.root, TASK, "first", "second")


@pytest.fixture(scope="module")
def pair(written: TwoRuns) -> Pair:
    runs = open_store(written.root).runs
    return pair_of(runs[written.a.made.run_id], runs[written.b.made.run_id])


@pytest.fixture(scope="module")
def items(written: TwoRuns) -> EvaluatedItems:
    return evaluated_items(written.root, TASK, run="first")


def row(found: ItemAnalysis, feature: str, site: str = "") -> dict[str, Any]:
    some = found.features_frame().filter(feature=feature, site=site)
    return some.row(0, named=True)


def places(run: EvaluatedRun) -> list[tuple[int, int, int]]:
    """Of each item: prompt of the chosen answer, first position of the question, the answer's."""
    ids = [item["prompt_ids"][item["chosen"]] for item in run.rows]
    return [(i, run.before[i], run.context[i] - 1) for i in ids]


# the numbers of an item


@pytest.mark.slow
@pytest.mark.parametrize("skip", [0, 2, 7])
def test_drift_of_predictions_by_plain_arithmetic(
    written: TwoRuns, pair: Pair, items: EvaluatedItems, skip: int
) -> None:
    found = drift_features(pair, items, first_position=skip)
    assert list(found) == [one.name for one in DRIFT_FEATURES[:-1]]
    for place, (prompt, first, answer) in enumerate(places(written.a)):
        p, q = (
            log_softmax(run.made.hidden["final"][prompt].astype(float) @ WEIGHT.T, axis=1)
            for run in (written.a, written.b)
        )
        kl = (np.exp(p) * (p - q)).sum(axis=1)
        flip = p.argmax(axis=1) != q.argmax(axis=1)
        start = max(first, skip)
        some = start < answer
        wanted = {
            "answer_kl": kl[answer],
            "answer_flip": float(flip[answer]),
            "question_kl": kl[start:answer].mean() if some else math.nan,
            "question_flips": flip[start:answer].mean() if some else math.nan,
        }
        for name, value in wanted.items():
            assert found[name][place] == pytest.approx(value, rel=1e-4, nan_ok=True), name


def test_drift_at_tokens_is_that_of_all_tokens(pair: Pair) -> None:
    every = token_drift(pair, only=("kl", "flip"))
    chosen = every.select("prompt_id", "position").gather_every(7)
    found = drift_at(pair, chosen.reverse(), only=("kl", "flip"))
    same = every.join(chosen, on=["prompt_id", "position"], how="semi", maintain_order="left")
    assert found.drop("kl").equals(same.drop("kl"))
    assert found["kl"].to_list() == pytest.approx(same["kl"].to_list(), rel=1e-5)
    assert drift_at(pair, chosen.clear()).is_empty()


def test_change_of_rows_by_plain_arithmetic(
    written: TwoRuns, pair: Pair, items: EvaluatedItems
) -> None:
    for site in ("embed", "final"):
        wanted = [
            distance(written.a.made, written.b.made, site, prompt, answer)
            for prompt, _, answer in places(written.a)
        ]
        assert row_change(pair, items, site).tolist() == pytest.approx(wanted)


def test_items_that_the_pair_does_not_compare_have_no_drift(
    pair: Pair, items: EvaluatedItems
) -> None:
    ids = items.table["prompt_id"].to_numpy()
    some = replace(pair, n_prompts=90, excluded=ids[:2].astype(np.int32))
    there = (ids < 90) & ~np.isin(ids, ids[:2])
    numbers = {
        **drift_features(some, items),
        "row_change": row_change(some, items, "final"),
    }
    for name, values in numbers.items():
        if not name.startswith("question"):
            assert (np.isfinite(values) == there).all(), name


# what tells items that flip


def test_a_known_effect_is_found(found: ItemAnalysis) -> None:
    moved = row(found, "row_change", "final")
    assert moved["ci_low"] > moved["shuffled_high"] > 0.5
    assert moved["q_value"] < 0.01
    assert moved["partial_ci_low"] > 0.5
    assert row(found, "row_change", "embed")["q_value"] > 0.05  # it is in final alone
    assert row(found, "question_length")["q_value"] > 0.05


@pytest.mark.slow
def test_without_an_effect_nothing_is_found(make_run: MakeRun) -> None:
    rng = np.random.default_rng(3)
    made = two_runs(make_run, flips=lambda *_: bool(rng.random() < 0.4))
    frame = lpp.analyze.flipped_items(made.root, TASK, "first", "second").features_frame()
    assert (frame["q_value"].drop_nulls() > 0.05).all()


def test_numbers_are_those_of_the_features(found: ItemAnalysis, written: TwoRuns) -> None:
    table = flips(written.root, TASK, "first", "second").table
    right = table["right_a"].to_numpy()
    flipped = ~table["right_b"].to_numpy()[right]
    at = [place for place, there in zip(places(written.a), right, strict=True) if there]
    entropy = np.array([written.a.made.entropy[i][answer] for i, _, answer in at], dtype=float)
    lengths = [len(written.a.made.prompts[i]) - answer - 1 for i, _, answer in at]
    gaps = table.filter(pl.col("right_a"))["gap_a"].to_list()
    some, whole = row(found, "answer_entropy"), auroc(entropy, flipped)
    rest = residual_ranks(entropy, np.column_stack([lengths, gaps]).astype(float))
    assert whole is not None
    assert rest is not None
    partial = auroc(rest, flipped)
    assert partial is not None
    assert (some["auroc"], some["partial_auroc"]) == (whole.value, partial.value)
    assert (some["n_flipped"], some["n_stayed"]) == (flipped.sum(), (~flipped).sum())
    assert found.row["covariates"] == [*WITH_CHOICES]


def test_every_feature_has_a_row(found: ItemAnalysis) -> None:
    frame = found.features_frame()
    assert frame.schema == frame_schema(feature_columns(FLIP_KINDS))
    of_sites = ("row_norm", "distance", "participation_ratio", "row_change")
    of_blocks = ("lens_logprob", "lens_share")  # the runs keep none
    names = [one.name for one in RANKED if one.name not in (*of_sites, *of_blocks)]
    assert frame.filter(site="")["feature"].to_list() == names
    some = frame.filter(pl.col("site") != "")
    assert some.select("feature", "site").rows() == [
        (name, site) for name in of_sites for site in ("embed", "final")
    ]
    assert frame.filter(role="gold").is_empty()
    of_few_values = {"answer_place", "question_length", "answer_flip", "question_flips"}
    without = {*WITH_CHOICES, *of_few_values, *OF_ITEMS}
    assert set(frame.filter(pl.col("partial_auroc").is_null())["feature"]) == without
    assert set(frame.filter(pl.col("auroc").is_null())["feature"]) == {*OF_ITEMS}
    tested = frame.filter(pl.col("p_value").is_not_null())
    assert tested["q_value"].to_list() == benjamini_hochberg(tested["p_value"].to_list())
    assert found.row["notes"] == []


@pytest.mark.slow
def test_groups_are_compared_within(make_run: MakeRun) -> None:
    made = two_runs(make_run, flips=where_it_moved, groups=("law", "art"))
    found = lpp.analyze.flipped_items(
        made.root, TASK, "first", "second", ItemsSettings(sites=["final"])
    )
    assert (found.row["n_groups"], found.row["n_within"]) == (2, 120)
    some = row(found, "row_change", "final")
    assert some["within_ci_low"] > 0.5
    assert some["n_groups"] == 2


@pytest.mark.slow
def test_another_tokenizer_leaves_the_features_of_a(make_run: MakeRun) -> None:
    made = two_runs(make_run, flips=where_it_moved, options={"tokenizer": "t1"})
    found = lpp.analyze.flipped_items(made.root, TASK, "first", "second")
    assert len(found.row["notes"]) == 1
    assert set(found.features_frame()["role"]) == {"baseline", "statistic", "rows"}
    assert set(found.features_frame().filter(pl.col("auroc").is_null())["feature"]) == {*OF_ITEMS}


@pytest.mark.slow
def test_without_heads_there_are_flips_and_no_kl(make_run: MakeRun) -> None:
    made = two_runs(make_run, flips=where_it_moved, options={"most_likely": 9})
    found = lpp.analyze.flipped_items(
        made.root, TASK, "first", "second", ItemsSettings(sites=["final"])
    )
    assert len(found.row["notes"]) == 1
    why = {name: row(found, name)["why_none"] for name in ("answer_kl", "answer_flip")}
    assert why == {
        "answer_kl": "not defined for any item",
        "answer_flip": "the same for every item",  # every token flips
    }


@pytest.mark.slow
def test_rows_of_another_width_are_not_compared(make_run: MakeRun) -> None:
    made = two_runs(make_run, flips=lambda a, b, prompt, _: prompt % 2 == 0, options={"dim": 5})
    found = lpp.analyze.flipped_items(made.root, TASK, "first", "second")
    assert found.features_frame().filter(feature="row_change").is_empty()
    assert len(found.features_frame().filter(feature="row_norm")) == 2
    assert any("width" in note for note in found.row["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(("right", "flipped"), [(49, 20), (60, 9), (60, 51)])
def test_too_few_are_not_ranked(make_run: MakeRun, right: int, flipped: int) -> None:
    made = two_runs(
        make_run,
        items=80,
        right=lambda item: item < right,
        flips=lambda a, b, prompt, _: prompt // 3 < flipped,
    )
    found = lpp.analyze.flipped_items(made.root, TASK, "first", "second")
    assert found.row["why_no_ranking"] is not None
    assert found.features_frame().is_empty()
    kinds = ("right_in_both", "right_to_wrong", "wrong_to_right", "wrong_in_both")
    assert [found.row[kind] for kind in kinds] == [right - flipped, flipped, 0, 80 - right]


# the command


def shown(written: TwoRuns, *words: str) -> str:
    asked = ["items", str(written.root), "--task", TASK, "second", "--against", "first"]
    done = CliRunner().invoke(main, [*asked, *words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_the_command_prints_within_eighty_columns(written: TwoRuns, found: ItemAnalysis) -> None:
    lines = shown(written, "--all").splitlines()
    assert max(len(line) for line in lines if str(written.root) not in line) <= 80
    in_short = shown(written).splitlines()
    assert len(in_short) < len(lines)
    of_items = found.features_frame().filter(site="").drop_nulls("auroc")
    for feature, value in of_items.select("feature", "auroc").iter_rows():
        line = next(line for line in lines if line.split()[:1] == [feature])
        assert float(line.split()[1]) == pytest.approx(value, abs=0.005)


@pytest.mark.slow
def test_json_and_markdown_hold_the_same(written: TwoRuns, found: ItemAnalysis) -> None:
    document = json.loads(shown(written, "--format", "json"))
    tables = document["tables"]
    assert tables["item_features"] == found.features_frame().to_dicts()
    assert len(tables["item_changes"]) == len(found.tables["item_changes"])
    text = shown(written, "--format", "md", "--all").replace("\\", "")
    for row in found.features_frame().drop_nulls("auroc").head(40).iter_rows(named=True):
        assert f"| {row['auroc']:.2f}" in text, row["feature"]


def test_a_site_that_is_not_in_both_is_refused(written: TwoRuns) -> None:
    asked = ["items", str(written.root), "--task", TASK, "second", "--against", "first"]
    done = CliRunner().invoke(main, [*asked, "--sites", "block.9"])
    assert done.exit_code == 2
    assert "final" in done.stderr
    assert done.stdout == ""
