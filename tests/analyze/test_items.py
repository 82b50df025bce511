"""`lpp-analyze items`: known effects, none, what it refuses, and its three formats."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from evaluated_items import EvaluatedRun, evaluated_run, row_at, write_items
from made_runs import Made, MakeRun

import lpp.analyze
from lpp.analyze import ItemsSettings
from lpp.analyze.cli.command import main
from lpp.analyze.evaluations.lens import OF_ITEMS
from lpp.analyze.evaluations.pages.verdict import verdict
from lpp.analyze.evaluations.tables import ANALYSIS_KEY, ITEM_FEATURES, ItemAnalysis
from lpp.analyze.numerics.statistics.association import benjamini_hochberg
from lpp.analyze.numerics.statistics.auroc import auroc, residual_ranks
from lpp.analyze.quantities.items import FEATURES
from lpp.analyze.quantities.tables import frame_schema
from lpp.store.errors import ErrorKind, InputError
from lpp.store.uncertainty import share_interval, standard_error

SCHEMA = frame_schema(ITEM_FEATURES.columns)
BASELINES = {"answer_length", "answer_place", "question_length"}


def calm_and_long(made: Made, prompt: int, answer: int) -> bool:
    """Right where the entropy before the answer is low, and the row of `final` there long; noisy,
    since the two do not agree.
    """
    length = np.linalg.norm(row_at(made, "final", prompt, answer))
    return bool(made.entropy[prompt][answer] - 1.5 < 0.15 * (length - 12))


@pytest.fixture(scope="module")
def written(make_shared_run: MakeRun) -> EvaluatedRun:
    groups = ("law", "art", "art")
    return evaluated_run(make_shared_run, items=120, right=calm_and_long, groups=groups)


@pytest.fixture(scope="module")
def found(written: EvaluatedRun) -> ItemAnalysis:
    return lpp.analyze.items(written.root, "tiny_task")


def row(found: ItemAnalysis, feature: str, site: str = "") -> dict[str, Any]:
    some = found.features_frame().filter(feature=feature, site=site)
    return some.row(0, named=True)


def interval(found: ItemAnalysis) -> tuple[float, float]:
    return found.row["accuracy_ci_low"], found.row["accuracy_ci_high"]


@pytest.mark.slow
def test_a_known_effect_is_found(found: ItemAnalysis) -> None:
    entropy, length = row(found, "answer_entropy"), row(found, "row_norm", "final")
    assert (
        entropy["ci_high"] < entropy["shuffled_low"] < 0.5
    )  # shown as it is: right items are calm
    assert length["ci_low"] > 0.5
    assert entropy["q_value"] < 0.01
    assert entropy["partial_ci_high"] < 0.5
    assert entropy["within_ci_high"] < 0.5
    assert (entropy["n_groups"], found.row["n_groups"], found.row["n_within"]) == (2, 2, 120)
    assert row(found, "row_norm", "embed")["q_value"] > 0.05  # the effect is in final alone


def test_numbers_are_those_of_the_features(found: ItemAnalysis, written: EvaluatedRun) -> None:
    ids = [item["prompt_ids"][item["chosen"]] for item in written.rows]
    right = np.array([item["correct"] for item in written.rows])
    values = np.array([written.made.entropy[i][written.context[i] - 1] for i in ids], dtype=float)
    lengths = [len(written.made.prompts[i]) - written.context[i] for i in ids]
    logprobs = [max(item["log_likelihoods"]) for item in written.rows]
    codes = np.array([item["item_group"] == "law" for item in written.rows], dtype=np.int64)
    rest = residual_ranks(values, np.column_stack([lengths, logprobs]).astype(float), codes)
    assert rest is not None
    some = row(found, "answer_entropy")
    wanted = {
        "": auroc(values, right),
        "within_": auroc(values, right, codes),
        "partial_": auroc(rest, right, codes),
    }
    for kind, number in wanted.items():
        assert number is not None
        assert some[f"{kind}auroc"] == number.value
        assert (some[f"{kind}ci_low"], some[f"{kind}ci_high"]) == number.interval
        assert some[f"{kind}p_value"] == number.p_value
    assert (some["n_right"], some["n_wrong"]) == (right.sum(), (~right).sum())


def test_every_feature_has_a_row_with_its_control(found: ItemAnalysis) -> None:
    frame = found.features_frame()
    assert frame.schema == SCHEMA
    assert frame.filter(site="")["feature"].to_list() == [
        feature.name for feature in FEATURES if feature.role != "rows"
    ]
    assert frame.filter(role="rows")["site"].to_list() == ["embed", "final"] * 3
    assert set(frame.filter(role="baseline")["feature"]) == BASELINES
    lens = frame.filter(pl.col("auroc").is_null())
    assert lens["feature"].to_list() == list(OF_ITEMS)
    assert lens["why_none"].str.contains("block.0").all()  # the run has no blocks
    frame = frame.filter(pl.col("auroc").is_not_null())
    for kind in ("", "within_", "partial_"):
        there = frame.filter(pl.col(f"{kind}auroc").is_not_null())
        assert (there[f"{kind}shuffled_low"] < there[f"{kind}shuffled_mean"]).all()
        assert (there[f"{kind}shuffled_mean"] < there[f"{kind}shuffled_high"]).all()
    without = frame.filter(pl.col("partial_auroc").is_null())["feature"].to_list()
    of_few_values = {"answer_place", "question_length"}
    assert (
        set(without) == {"answer_length", "chosen_logprob", "chosen_logprob_token"} | of_few_values
    )
    tested = frame.filter(pl.col("role") != "gold")
    assert frame.filter(role="gold")["q_value"].is_null().all()
    p_values = tested["within_p_value"].to_list()  # the items have groups
    assert tested["q_value"].to_list() == benjamini_hochberg(p_values)


@pytest.mark.slow
def test_without_an_effect_few_features_are_beyond(make_run: MakeRun) -> None:
    rng = np.random.default_rng(1)
    written = evaluated_run(make_run, items=100, right=lambda *_: bool(rng.random() < 0.5))
    frame = lpp.analyze.items(written.root, "tiny_task").features_frame()
    frame = frame.filter(pl.col("role") != "gold", pl.col("auroc").is_not_null())
    assert (frame["q_value"] > 0.05).all()
    assert frame["within_auroc"].is_null().all()
    assert frame["q_value"].to_list() == benjamini_hochberg(frame["p_value"].to_list())


@pytest.mark.slow
def test_groups_of_too_few_items_are_not_compared(make_run: MakeRun) -> None:
    groups = tuple(f"topic {k}" for k in range(30))  # two items each: none has two of both kinds
    written = evaluated_run(make_run, items=60, groups=groups)
    found = lpp.analyze.items(written.root, "tiny_task")
    assert (found.row["n_groups"], found.row["n_within"]) == (30, 0)
    assert found.features_frame()["within_auroc"].is_null().all()
    tested = found.features_frame().filter(pl.col("role") != "gold", pl.col("auroc").is_not_null())
    assert tested["q_value"].to_list() == benjamini_hochberg(tested["p_value"].to_list())


@pytest.mark.slow
def test_only_comparable_groups_count(make_run: MakeRun) -> None:
    groups = ("law", "art")
    left = iter(range(120))

    def right(*_: Any) -> bool:  # every item of art is right
        item = next(left)
        return item % 2 == 1 or item % 4 == 0

    written = evaluated_run(make_run, items=120, groups=groups, right=right)
    found = lpp.analyze.items(written.root, "tiny_task")
    assert (found.row["n_groups"], found.row["n_within"]) == (2, 60)
    assert row(found, "answer_entropy")["n_groups"] == 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(found: ItemAnalysis, written: EvaluatedRun) -> None:
    again = lpp.analyze.items(written.root, "tiny_task", settings=ItemsSettings(sites=["final"]))
    assert {*again.features_frame()["site"]} == {"", "final"}
    assert row(again, "distance", "final")["auroc"] == row(found, "distance", "final")["auroc"]
    other = lpp.analyze.items(
        written.root, "tiny_task", settings=ItemsSettings(sites=["final"], seed=1)
    )
    assert row(other, "distance", "final")["auroc"] != row(found, "distance", "final")["auroc"]
    control = row(other, "answer_entropy")["shuffled_low"]
    assert control != row(found, "answer_entropy")["shuffled_low"]


@pytest.mark.slow
def test_what_does_not_vary_or_is_not_there(make_run: MakeRun) -> None:
    def one_answer(item: dict[str, Any]) -> dict[str, Any]:
        chosen = item["chosen"]
        kept = {key: [item[key][chosen]] for key in ("prompt_ids", "log_likelihoods", "greedy")}
        return item | kept | {"chosen": None, "gold": None}

    written = evaluated_run(make_run, changes=one_answer)
    found = lpp.analyze.items(written.root, "tiny_task")
    none = found.features_frame().filter(pl.col("auroc").is_null())
    why = dict(zip(none["feature"], none["why_none"], strict=True))
    assert why["answer_place"] == "the same for every item"
    assert why["chosen_share"] == why["gold_logprob"] == "not defined for any item"
    assert found.row["ece"] is None
    assert found.tables["item_risk"]["risk"][-1] == pytest.approx(found.row["n_wrong"] / 60)
    # the one answer is the right one: what is known of it alone is known only with the label
    roles = dict(found.features_frame().select("feature", "role").iter_rows())
    for name in ("answer_length", "chosen_logprob", "chosen_logprob_token"):
        assert roles[name] == "gold"
        assert row(found, name)["q_value"] is None
    assert (roles["question_length"], roles["answer_entropy"]) == ("baseline", "statistic")
    assert found.row["risk_by"] == "answer_margin"
    assert found.features_frame()["partial_auroc"].is_null().all()  # the covariates use the label
    said = verdict(found.features_frame(), within=False)
    assert said.baseline is not None
    assert said.baseline["feature"] == "question_length"


def clustered(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"item_cluster": f"scene {item['item'] // 4}"}


@pytest.mark.slow
def test_every_number_is_by_cluster(make_run: MakeRun) -> None:
    written = evaluated_run(make_run, items=120, right=calm_and_long, changes=clustered)
    found = lpp.analyze.items(written.root, "tiny_task")
    assert (found.row["cluster"], found.row["n_clusters"]) == ("item_cluster", 30)
    right = np.array([item["correct"] for item in written.rows])
    codes = np.arange(120) // 4
    error = standard_error(right.tolist(), codes.tolist())
    assert interval(found) == share_interval(right.mean(), error, 30)
    tokens = written.tokens()
    entropy = np.array(
        [
            tokens[item["prompt_ids"][item["chosen"]]][written.context[item["prompt_ids"][0]] - 1][
                "entropy"
            ]
            for item in written.rows
        ]
    )
    expected = auroc(entropy.astype(np.float64), right, None, codes)
    assert expected is not None
    entry = row(found, "answer_entropy")
    assert (entry["auroc"], entry["p_value"]) == (expected.value, expected.p_value)
    assert (entry["ci_low"], entry["ci_high"]) == expected.interval
    alone = lpp.analyze.items(written.root, "tiny_task", settings=ItemsSettings(cluster="item"))
    assert (alone.row["cluster"], alone.row["n_clusters"]) == ("item", 120)
    for name, site in (("answer_entropy", ""), ("distance", "final")):
        assert row(alone, name, site)["ci_low"] != row(found, name, site)["ci_low"]
    assert row(alone, "distance", "final")["auroc"] != row(found, "distance", "final")["auroc"]


@pytest.mark.slow
def test_clusters_of_one_item_are_independent_items(
    make_run: MakeRun, written: EvaluatedRun, found: ItemAnalysis
) -> None:
    def own(item: dict[str, Any]) -> dict[str, Any]:
        return item | {"item_cluster": str(item["item"])}

    groups = ("law", "art", "art")
    other = evaluated_run(make_run, items=120, right=calm_and_long, groups=groups, changes=own)
    alone = lpp.analyze.items(other.root, "tiny_task")
    assert (alone.row["n_clusters"], found.row["n_clusters"]) == (120, 0)
    assert interval(alone) == pytest.approx(interval(found), abs=1e-12)
    for table in ("item_reliability", "item_risk"):
        assert alone.tables[table].equals(found.tables[table])
    numbers = [name for name, kind in SCHEMA.items() if kind == pl.Float64]
    for one, other_one in zip(
        alone.features_frame().iter_rows(named=True),
        found.features_frame().iter_rows(named=True),
        strict=True,
    ):
        for name in numbers:
            assert one[name] == pytest.approx(other_one[name], abs=1e-12), (one["feature"], name)


@pytest.mark.slow
def test_the_output_says_what_is_independent(make_run: MakeRun, written: EvaluatedRun) -> None:
    assert "items are taken as independent" in run(written.root, "--task", "tiny_task").output
    asked = ("--task", "tiny_task", "--cluster", "item")
    assert "120 clusters by item" in run(written.root, *asked).output
    done = run(written.root, "--task", "tiny_task", "--cluster", "itm")
    assert (done.exit_code, "did you mean item?" in done.output) == (2, True)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["items", *map(str, words)])


@pytest.mark.slow
def test_the_command_prints_within_eighty_columns(
    written: EvaluatedRun, found: ItemAnalysis
) -> None:
    done = run(written.root, "--task", "tiny_task", "--all")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    commands = [line for line in lines if line.startswith("Next: ")]  # whole, to be copied
    assert max(len(line) for line in lines if line not in commands) <= 80
    for feature in found.features_frame()["feature"].unique():
        assert feature in done.stdout, feature
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("AUROC of each")) :]
    shown = next(line for line in table if line.split()[:1] == ["answer_entropy"])
    assert float(shown.split()[1]) == pytest.approx(
        row(found, "answer_entropy")["auroc"], abs=0.005
    )


@pytest.mark.slow
def test_in_short_a_screen_has_the_best_site_of_each_feature(
    written: EvaluatedRun, found: ItemAnalysis
) -> None:
    done = run(written.root, "--task", "tiny_task")
    assert len(done.stdout.splitlines()) < 65
    of_sites = found.features_frame().filter(pl.col("site") != "").drop_nulls("auroc")
    kind = "within_" if found.row["n_within"] else ""
    far = (pl.col(f"{kind}auroc") - 0.5).abs()
    for one in of_sites.filter(far == far.max().over("feature")).iter_rows(named=True):
        assert any(
            line.split()[:2] == [one["site"], one["feature"]] for line in done.stdout.splitlines()
        )


@pytest.mark.slow
def test_json_and_markdown_hold_the_same(
    written: EvaluatedRun, found: ItemAnalysis, tmp_path: Path
) -> None:
    output = tmp_path / "items.json"
    assert run(written.root, "--task", "tiny_task", "-o", output).exit_code == 0
    document = json.loads(output.read_text("utf-8"))
    assert [*document] == ["store", "runs", "settings", "tables", "flags"]
    expected = (
        found.features_frame().drop(ANALYSIS_KEY).with_columns(pl.col("site").replace("", None))
    )
    assert document["tables"]["item_features"] == expected.to_dicts()
    assert document["runs"] == {written.made.run_id: "model"}
    assert document["settings"]["skip_first"] == 0
    (analysis,) = document["tables"]["item_analyses"]
    assert {*analysis["flags"]} == {*document["flags"]}
    assert (analysis["n_right"], analysis["n_wrong"]) == (
        found.row["n_right"],
        found.row["n_wrong"],
    )
    assert analysis["ece"] == found.row["ece"]
    done = run(written.root, "--task", "tiny_task", "--format", "md", "--all")
    assert done.exit_code == 0
    for value in found.features_frame()["auroc"].drop_nulls():
        assert f"| {value:.2f}" in done.stdout
    for value in (found.row["ece"], found.row["risk_area"]):
        assert f"{value:.2f}" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "tiny_tsk"], "tiny_task"),
        (["--task", "tiny_task", "other"], "model-"),
        (["--task", "tiny_task", "--source", "other"], "lm-eval tiny"),
        (["--task", "tiny_task", "--filter", "strict"], "none"),
        (["--task", "tiny_task", "--sites", "block.*"], "final"),
        ([], "--task"),
    ],
)
def test_bad_input_is_one_message(written: EvaluatedRun, words: list[str], said: str) -> None:
    done = run(written.root, *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_store_without_items_names_the_command(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run()
    output = tmp_path / "items.md"
    done = run(made.root, "--task", "arc_easy", "-o", output)
    assert done.exit_code == 2
    assert "lpp-capture eval" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(("items", "wrong"), [(49, 20), (60, 9), (60, 51)])
def test_too_few_items_are_not_ranked(make_run: MakeRun, items: int, wrong: int) -> None:
    left = iter(range(items))
    written = evaluated_run(make_run, items=items, right=lambda *_: next(left) >= wrong)
    with pytest.raises(InputError) as caught:
        lpp.analyze.items(written.root, "tiny_task")
    assert caught.value.kind is ErrorKind.INCOMPLETE
    done = run(written.root, "--task", "tiny_task")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{wrong} wrong" in done.stderr


@pytest.mark.slow
def test_one_of_several_runs_and_filters_is_chosen(make_run: MakeRun) -> None:
    first = evaluated_run(make_run, model="tiny/first", source="s1")
    second = evaluated_run(make_run, model="tiny/second", source="s2", seed=5)
    with pytest.raises(InputError, match="Name one after STORE"):
        lpp.analyze.items(first.root, "tiny_task")
    found = lpp.analyze.items(first.root, "tiny_task", run="second")
    assert found.row["run"] == second.made.run_id
    write_items(first.root, first.rows + [item | {"filter": "strict"} for item in first.rows])
    with pytest.raises(InputError, match="--filter"):
        lpp.analyze.items(first.root, "tiny_task", run="first")
    found = lpp.analyze.items(
        first.root, "tiny_task", settings=ItemsSettings(filter="strict"), run="first"
    )
    assert found.row["n_right"] + found.row["n_wrong"] == 60


@pytest.mark.parametrize(("n", "said"), [(0, "Evaluate again"), (99, "altered"), (-1, "altered")])
def test_an_answer_without_a_token_before_it_is_refused(
    make_run: MakeRun, n: int, said: str
) -> None:
    """Earlier releases scored an answer after white space from another prompt."""
    written = evaluated_run(make_run, context_of={7: n})
    done = run(written.root, "--task", "tiny_task")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "prompt 7" in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("n", [-1, 99])
def test_a_question_outside_its_prompt_is_refused(make_run: MakeRun, n: int) -> None:
    written = evaluated_run(make_run, before_of={7: n})
    done = run(written.root, "--task", "tiny_task")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "prompt 7 has" in done.stderr
    assert f"question after {n}" in done.stderr
