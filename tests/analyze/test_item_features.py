"""Features of items against plain arithmetic, token by token and row by row."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from evaluated_items import EvaluatedRun, evaluated_run, row_at, row_features
from made_runs import MakeRun

from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.features import item_features
from lpp.analyze.evaluations.lens import OF_ITEMS
from lpp.analyze.numerics.distance import distances, folds
from lpp.analyze.quantities.items import FEATURES
from lpp.store.runs.read import Block, Run


@pytest.fixture(scope="module")
def written(make_shared_run: MakeRun) -> EvaluatedRun:
    return evaluated_run(make_shared_run, items=20)


@pytest.fixture(scope="module")
def read(written: EvaluatedRun) -> EvaluatedItems:
    return evaluated_items(written.root, "tiny_task")


def least(values: list[float]) -> float:
    """Mean of the fifth that is least."""
    count = max(len(values) // 5, 1)
    return sum(sorted(values)[:count]) / count


def expected(written: EvaluatedRun, skip: int) -> dict[str, list[float]]:
    tokens = written.tokens()
    found: dict[str, list[float]] = {feature.name: [] for feature in FEATURES}
    for row in written.rows:
        prompt = row["prompt_ids"][row["chosen"]]
        gold = row["prompt_ids"][row["gold"]]
        at = written.context[prompt] - 1
        question = [
            t for t in tokens[prompt] if max(written.before[prompt], skip) <= t["position"] < at
        ]
        length = len(tokens[prompt]) - at - 1
        logprobs = row["log_likelihoods"]
        first, second = sorted(logprobs, reverse=True)[:2]
        standard = [
            (t["next_logprob"] + t["entropy"]) / math.sqrt(t["varentropy"]) for t in question
        ]
        numbers = {
            "answer_length": length,
            "answer_place": row["chosen"],
            "question_length": at - written.before[prompt] + 1,
            "chosen_logprob": first,
            "chosen_logprob_token": first / length,
            "chosen_share": math.exp(first) / sum(map(math.exp, logprobs)),
            "answer_gap": first - second,
            "answer_entropy": tokens[prompt][at]["entropy"],
            "answer_margin": tokens[prompt][at]["margin"],
            "gold_logprob": logprobs[row["gold"]],
            "gold_logprob_token": logprobs[row["gold"]]
            / (len(tokens[gold]) - written.context[gold]),
        }
        means = {name: [t[name] for t in question] for name in ("entropy", "margin")}
        some = bool(question)
        numbers |= {
            f"question_{name}": sum(v) / len(v) if some else math.nan for name, v in means.items()
        }
        logs = [t["next_logprob"] for t in question]
        numbers["question_min_k"] = least(logs) if some else math.nan
        numbers["question_min_k_pp"] = least(standard) if some else math.nan
        for name, value in numbers.items():
            found[name].append(value)
    return found


@pytest.mark.parametrize("skip", [0, 2, 7])
def test_features_of_predictions(read: EvaluatedItems, written: EvaluatedRun, skip: int) -> None:
    wanted = expected(written, skip)
    found = item_features(read, first_position=skip)
    of_rows = {feature.name for feature in FEATURES if feature.role == "rows"}
    assert set(found) == {feature.name for feature in FEATURES} - of_rows - set(OF_ITEMS)
    for name, values in found.items():
        assert values.tolist() == pytest.approx(wanted[name], rel=1e-6, nan_ok=True), name
    missing = np.isnan(found["question_entropy"])
    assert missing.any() == (skip == 7)
    assert not np.isnan(found["answer_entropy"]).any()  # the answer's position is never skipped


@pytest.fixture(params=[1, 4, 10**6])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Most rows of a block: as a wide site's blocks, they end within prompts."""
    blocks, most = Run.blocks, int(request.param)

    def cut(run: Run, site: str, **options: Any) -> Iterator[Block]:
        for block in blocks(run, site, **options):
            for start in range(0, len(block.values), most):
                part = slice(start, start + most)
                yield Block(
                    values=block.values[part],
                    prompt_id=block.prompt_id[part],
                    position=block.position[part],
                )

    monkeypatch.setattr(Run, "blocks", cut)
    return most


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("skip", [0, 3])
def test_features_of_rows(read: EvaluatedItems, written: EvaluatedRun, skip: int) -> None:
    found = row_features(read, "final", first_position=skip)
    rows, ratios = [], []
    for row in written.rows:
        prompt = row["prompt_ids"][row["chosen"]]
        at = written.context[prompt] - 1
        rows.append(row_at(written.made, "final", prompt, at))
        start = max(written.before[prompt], skip)
        some = written.made.hidden["final"][prompt][start : at + 1].astype(np.float64)
        if len(some) < 2:
            ratios.append(math.nan)
            continue
        values = np.linalg.eigvalsh(np.cov(some.T))
        ratios.append(values.sum() ** 2 / (values**2).sum())
    assert found["row_norm"].tolist() == pytest.approx([np.linalg.norm(row) for row in rows])
    assert found["participation_ratio"].tolist() == pytest.approx(ratios, nan_ok=True)
    far = distances(np.array(rows), folds(20))
    assert found["distance"].tolist() == pytest.approx(far.tolist())


def test_an_item_in_parts(make_run: MakeRun) -> None:
    def changed(row: dict[str, Any]) -> dict[str, Any]:
        changes: dict[int, dict[str, Any]] = {
            0: {"correct": None},
            1: {"prompt_ids": [None, None, None]},
            2: {"chosen": None},
            3: {  # asked for twice: the second half is without the question
                "prompt_ids": row["prompt_ids"] * 2,
                "log_likelihoods": [*row["log_likelihoods"], 0.0, 0.0, 0.0],
                "greedy": row["greedy"] * 2,
                "metrics": '{"acc": 1.0, "acc_mutual_info": 0.0}',
            },
            4: {
                "prompt_ids": row["prompt_ids"][:1],
                "log_likelihoods": [-2.0],
                **{"chosen": None, "gold": None, "greedy": [True]},
            },
            5: {"log_likelihoods": [-1.0, -math.inf, -math.inf], "chosen": 0, "gold": 1},
        }
        return row | changes.get(row["item"], {})

    written = evaluated_run(make_run, items=10, changes=changed, set_aside=[27, 28, 29])
    read = evaluated_items(written.root, "tiny_task")
    assert read.table["item"].to_list() == [3, 4, 5, 6, 7, 8]
    assert read.left_out == {
        "neither right nor wrong": 1,
        "the prompt of its answer was set aside": 2,
        "no answer was chosen": 1,
    }
    found = item_features(read)
    logprobs = written.rows[3]["log_likelihoods"][:3]
    assert found["answer_gap"][0] == pytest.approx(sorted(logprobs)[2] - sorted(logprobs)[1])
    assert math.isnan(found["chosen_share"][1])  # one answer has no share
    assert found["chosen_logprob"][1] == -2.0
    assert found["chosen_share"][2] == 1.0
    assert math.isnan(found["answer_gap"][2])


def test_items_behind_a_missing_shard_are_not_said_to_be_set_aside(make_run: MakeRun) -> None:
    written = evaluated_run(make_run, items=10, per_shard=10, shards=[0, 2])
    read = evaluated_items(written.root, "tiny_task")
    why = "the prompt of its answer is in a missing or damaged shard, or behind one"
    assert read.left_out == {why: 10 - len(read.table)}
    assert 2 <= len(read.table) <= 4  # the first ten prompts


def test_features_are_declared() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(set(names)) == len(names)
    assert all(feature.unit and feature.definition and feature.source for feature in FEATURES)
