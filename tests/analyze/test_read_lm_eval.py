"""Result files of lm-eval: what is taken, under which name, and what is refused."""

import copy
import json
from typing import Any

import pytest

from lpp.analyze.scores.read_lm_eval import read_lm_eval
from lpp.store.errors import InputError

RESULTS: dict[str, Any] = {
    "results": {
        "leaderboard": {" ": " ", "alias": "leaderboard"},
        "leaderboard_bbh": {
            "alias": " - leaderboard_bbh",
            "acc_norm,none": 0.5,
            "acc_norm_stderr,none": 0.01,
        },
        "leaderboard_bbh_snarks": {
            "alias": "  - leaderboard_bbh_snarks",
            "acc_norm,none": 0.25,
            "acc_norm_stderr,none": 0.02,
            "sample_len": 178,
        },
        "leaderboard_bbh_navigate": {"acc_norm,none": 0.75, "acc_norm_stderr,none": 0.03},
        "leaderboard_ifeval": {
            "alias": " - leaderboard_ifeval",
            "prompt_level_strict_acc,none": 0.41,
            "prompt_level_strict_acc_stderr,none": 0.021,
            "inst_level_strict_acc,none": 0.52,
            "inst_level_strict_acc_stderr,none": "N/A",
        },
        "leaderboard_mmlu_pro": {"acc,none": 0.3, "acc_stderr,none": 0.004},
        "gsm8k": {
            "exact_match,strict-match": 0.11,
            "exact_match_stderr,strict-match": 0.001,
            "exact_match,flexible-extract": 0.12,
            "exact_match_stderr,flexible-extract": 0.002,
        },
        "wikitext": {"word_perplexity,none": 17.5, "word_perplexity_stderr,none": "N/A"},
    },
    "group_subtasks": {
        "leaderboard": ["leaderboard_bbh", "leaderboard_ifeval"],
        "leaderboard_bbh": ["leaderboard_bbh_snarks", "leaderboard_bbh_navigate"],
    },
    "n-samples": {
        "leaderboard_bbh_snarks": {"original": 178, "effective": 20},
        "leaderboard_bbh_navigate": {"original": 250, "effective": 30},
        "leaderboard_ifeval": {"original": 541, "effective": 541},
    },
    "config": {"model": "hf", "model_args": "pretrained=org/Other,dtype=bfloat16"},
    "model_name": "org/Model-1B",
}


def changed(*path: str, value: Any) -> bytes:
    """RESULTS with one place replaced; None removes it."""
    document = copy.deepcopy(RESULTS)
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document).encode()


def test_every_metric_of_every_task_and_group() -> None:
    read = read_lm_eval(json.dumps(RESULTS).encode(), "r.json")
    assert read.kind == "lm-eval"
    assert {score.model for score in read.scores} == {"org/Model-1B"}
    found = [(s.benchmark, s.metric, s.value, s.stderr, s.n) for s in read.scores]
    assert found == [
        ("gsm8k", "exact_match,flexible-extract", 0.12, 0.002, None),
        ("gsm8k", "exact_match,strict-match", 0.11, 0.001, None),
        ("leaderboard_bbh", "acc_norm,none", 0.5, 0.01, 50),
        ("leaderboard_bbh_navigate", "acc_norm,none", 0.75, 0.03, 30),
        ("leaderboard_bbh_snarks", "acc_norm,none", 0.25, 0.02, 20),
        ("leaderboard_ifeval", "inst_level_strict_acc,none", 0.52, None, 541),
        ("leaderboard_ifeval", "prompt_level_strict_acc,none", 0.41, 0.021, 541),
        ("leaderboard_mmlu_pro", "acc,none", 0.3, 0.004, None),
        ("wikitext", "word_perplexity,none", 17.5, None, None),
    ]


def test_only_the_tasks_asked_for() -> None:
    read = read_lm_eval(json.dumps(RESULTS).encode(), "r.json", lambda task: task == "gsm8k")
    assert {score.benchmark for score in read.scores} == {"gsm8k"}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_args": "dtype=auto,pretrained=org/Other"}, "org/Other"),
        ({"model_args": "pretrained=base,peft=org/adapter"}, "org/adapter"),
        ({"model_args": {"pretrained": "org/Fourth"}}, "org/Fourth"),
    ],
)
def test_the_model_is_named_by_its_arguments_otherwise(config: dict[str, Any], name: str) -> None:
    document = {**RESULTS, "config": config}
    del document["model_name"]
    read = read_lm_eval(json.dumps(document).encode(), "r.json")
    assert {score.model for score in read.scores} == {name}


@pytest.mark.parametrize("value", ["N/A", "", float("nan"), True, [0.5]])
def test_a_score_that_is_no_number_is_refused_with_its_place(value: Any) -> None:
    data = changed("results", "leaderboard_bbh", "acc_norm,none", value=value)
    with pytest.raises(InputError, match=r"r\.json, leaderboard_bbh, acc_norm,none: .* not a scor"):
        read_lm_eval(data, "r.json")


def test_a_percentage_among_fractions_is_refused() -> None:
    data = changed("results", "leaderboard_mmlu_pro", "acc,none", value=30.0)
    with pytest.raises(InputError, match=r"leaderboard_mmlu_pro, acc,none: 30 is not a fraction"):
        read_lm_eval(data, "r.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not a JSON document"),
        (b"[" * 100_000, "not a JSON document"),
        (b"[1]", "no object `results`"),
        (changed("results", value=None), "no object `results`"),
        (changed("results", "gsm8k", value=3), "an object for each task"),
        (
            json.dumps({"results": RESULTS["results"], "config": {"model_args": ""}}).encode(),
            "names no model",
        ),
    ],
)
def test_another_file_is_told_what_it_lacks(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_lm_eval(data, "r.json")


def test_a_group_with_a_task_of_unknown_size_has_no_size() -> None:
    data = changed("n-samples", "leaderboard_bbh_navigate", value=None)
    sizes = {score.benchmark: score.n for score in read_lm_eval(data, "r.json").scores}
    assert (sizes["leaderboard_bbh"], sizes["leaderboard_bbh_snarks"]) == (None, 20)


@pytest.mark.parametrize(("limit", "items"), [(None, "all"), (20, "limited to 20")])
def test_a_limit_is_a_part_of_how_a_task_was_run(limit: int | None, items: str) -> None:
    document = {**RESULTS, "config": {"limit": limit}, "chat_template": None}
    scores = read_lm_eval(json.dumps(document).encode(), "r.json").scores
    assert all(s.setup["items"] == items and s.setup["chat template"] == "none" for s in scores)


def test_a_group_is_run_as_its_tasks_are() -> None:
    shots = {"leaderboard_bbh_snarks": 3, "leaderboard_bbh_navigate": 5, "gsm8k": 8}
    read = read_lm_eval(changed("n-shot", value=shots), "r.json")
    setups = {score.benchmark: score.setup for score in read.scores}
    assert setups["leaderboard_bbh"] == {"shots": "3, 5"}
    assert setups["gsm8k"] == {"shots": "8"}
    assert setups["wikitext"] == {}
