"""Saved queries about items, against the features of `lpp-analyze items` and the items written."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from evaluated_items import EvaluatedRun, evaluated_run
from made_runs import MakeRun

from lpp.analyze import build_database
from lpp.analyze.evaluations.evaluated import evaluated_items
from lpp.analyze.evaluations.features import item_features
from lpp.sql import connect, saved_query


def answer(root: Path, name: str) -> list[dict[str, Any]]:
    with connect(root) as connection:
        return pl.DataFrame(connection.sql(saved_query(name).text).to_arrow_table()).to_dicts()


@pytest.fixture(scope="module")
def written(make_shared_run: MakeRun) -> EvaluatedRun:
    found = evaluated_run(make_shared_run, items=40, groups=("law", "art"))
    build_database(found.root)
    return found


def digits(value: float) -> float:
    return float(f"{value:.4g}")


def test_right_and_wrong_are_means_of_the_features(written: EvaluatedRun) -> None:
    read = evaluated_items(written.root, "tiny_task")
    features, right = item_features(read), read.table["right"].to_numpy()
    found = {row["feature"]: row for row in answer(written.root, "right_and_wrong")}
    assert len(found) == 7
    for name, row in found.items():
        if name == "question_logprob":
            continue
        values = features[name]
        assert row["mean_right"] == pytest.approx(values[right].mean(), rel=1e-3), name
        assert row["mean_wrong"] == pytest.approx(values[~right].mean(), rel=1e-3), name
        effect = (values[right].mean() - values[~right].mean()) / values.std(ddof=1)
        assert row["effect"] == pytest.approx(effect, abs=2e-3), name
        assert (row["n_right"], row["n_wrong"]) == (right.sum(), (~right).sum())


def test_confident_mistakes_are_in_words(written: EvaluatedRun) -> None:
    found = answer(written.root, "confident_mistakes")
    wrong = {row["item"]: row for row in written.rows if not row["correct"]}

    def share(row: dict[str, Any]) -> float:
        logprobs = row["log_likelihoods"]
        return math.exp(max(logprobs)) / sum(map(math.exp, logprobs))

    order = sorted(wrong, key=lambda item: -share(wrong[item]))[:10]
    assert [row["item"] for row in found] == order
    for row in found:
        item = wrong[row["item"]]
        assert row["confidence"] == digits(share(item))
        for kind in ("chosen", "gold"):
            prompt = item["prompt_ids"][item[kind]]
            ids, start = written.made.prompts[prompt], written.context[prompt]
            assert row[kind] == "".join(f"<{token}>" for token in ids[start:])
            assert row[f"{kind}_logprob"] == digits(item["log_likelihoods"][item[kind]])
        prompt = item["prompt_ids"][item["chosen"]]
        ids, start = written.made.prompts[prompt], written.context[prompt]
        assert row["question"] == "".join(f"<{token}>" for token in ids[:start])


def test_flipped_items_are_those_of_two_runs(make_run: MakeRun) -> None:
    options: dict[str, Any] = {"items": 30, "right": lambda _made, prompt, _at: prompt % 2 == 0}
    a = evaluated_run(make_run, model="tiny/a", source="s1", **options)
    options["right"] = lambda _made, prompt, _at: prompt % 6 == 0

    def other_document(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"doc_sha256": "other"} if row["item"] == 0 else {})

    b = evaluated_run(
        make_run, model="tiny/b", source="s2", seed=3, changes=other_document, **options
    )
    build_database(a.root)
    found = answer(a.root, "flipped_items")
    by_run = {a.made.run_id: a, b.made.run_id: b}
    first, second = (by_run[run] for run in sorted(by_run))
    pairs = list(zip(first.rows, second.rows, strict=True))[1:]
    flipped = [x["item"] for x, y in pairs if x["correct"] != y["correct"]]
    assert sorted(row["item"] for row in found) == flipped
    changes = []
    for row in found:
        x, y = first.rows[row["item"]], second.rows[row["item"]]
        assert (row["correct_a"], row["correct_b"]) == (x["correct"], y["correct"])
        assert (row["n_flipped"], row["n_items"]) == (len(flipped), 29)
        change = y["log_likelihoods"][y["gold"]] - x["log_likelihoods"][x["gold"]]
        changes.append(abs(change))
        for side, of, item in (("a", first, x), ("b", second, y)):
            prompt = item["prompt_ids"][item["chosen"]]
            entropy = of.made.entropy[prompt][of.context[prompt] - 1]
            assert row[f"entropy_{side}"] == digits(float(entropy))
    assert changes == sorted(changes, reverse=True)
    assert np.isfinite(changes).all()
