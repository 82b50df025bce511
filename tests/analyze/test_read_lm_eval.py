"""Result files of lm-eval: what is taken, under which name, and what is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lpp.analyze import add_benchmarks
from lpp.analyze.scores.scores import Added
from lpp.store import create_store
from lpp.store.errors import InputError

AddFile = Callable[..., Added]

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


def scores(added: Added, *columns: str) -> list[tuple[Any, ...]]:
    """Columns of the scores, row by row."""
    return [tuple(row.values()) for row in added.table.select(list(columns)).to_pylist()]


def test_every_metric_of_every_task_and_group(add_file: AddFile) -> None:
    added = add_file(json.dumps(RESULTS).encode(), "r.json")
    assert set(scores(added, "kind", "model")) == {("lm-eval", "org/Model-1B")}
    assert scores(added, "benchmark", "metric", "value", "stderr", "n") == [
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


def test_only_the_tasks_asked_for(add_file: AddFile) -> None:
    added = add_file(json.dumps(RESULTS).encode(), "r.json", benchmarks=("gsm*",))
    assert set(scores(added, "benchmark")) == {("gsm8k",)}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_args": "dtype=auto,pretrained=org/Other"}, "org/Other"),
        ({"model_args": "pretrained=base,peft=org/adapter"}, "org/adapter"),
        ({"model_args": {"pretrained": "org/Fourth"}}, "org/Fourth"),
    ],
)
def test_the_model_is_named_by_its_arguments_otherwise(
    add_file: AddFile, config: dict[str, Any], name: str
) -> None:
    document = {**RESULTS, "config": config}
    del document["model_name"]
    added = add_file(json.dumps(document).encode(), "r.json")
    assert set(scores(added, "model")) == {(name,)}


@pytest.mark.parametrize("value", ["N/A", "", float("nan"), True, [0.5]])
def test_a_score_that_is_no_number_is_refused_with_its_place(add_file: AddFile, value: Any) -> None:
    data = changed("results", "leaderboard_bbh", "acc_norm,none", value=value)
    with pytest.raises(InputError, match=r"r\.json, leaderboard_bbh, acc_norm,none: .* not a scor"):
        add_file(data, "r.json")


def test_a_percentage_among_fractions_is_refused(add_file: AddFile) -> None:
    data = changed("results", "leaderboard_mmlu_pro", "acc,none", value=30.0)
    with pytest.raises(InputError, match=r"leaderboard_mmlu_pro, acc,none: 30 is not a fraction"):
        add_file(data, "r.json")


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
def test_another_file_is_told_what_it_lacks(add_file: AddFile, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_file(data, "r.json")


def test_a_group_with_a_task_of_unknown_size_has_no_size(add_file: AddFile) -> None:
    data = changed("n-samples", "leaderboard_bbh_navigate", value=None)
    sizes = dict(scores(add_file(data, "r.json"), "benchmark", "n"))
    assert (sizes["leaderboard_bbh"], sizes["leaderboard_bbh_snarks"]) == (None, 20)


@pytest.mark.parametrize("n", [-1, 1 << 31, 10**30])
def test_a_number_of_items_that_no_table_holds_is_refused(add_file: AddFile, n: int) -> None:
    data = changed("n-samples", "leaderboard_ifeval", value={"effective": n})
    with pytest.raises(InputError, match=rf"r\.json, leaderboard_ifeval, inst.*: {n} items"):
        add_file(data, "r.json")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model_name",), "a\ud800"),
        (("versions",), {"gsm8k": "a\ud800"}),
        (("results", "a\ud800"), {"acc,none": 0.5}),
        (("results", "wikitext"), {"acc,a\ud800": 0.5}),
    ],
)
def test_half_a_surrogate_pair_is_refused(
    add_file: AddFile, place: tuple[str, ...], value: Any
) -> None:
    with pytest.raises(InputError, match="half a surrogate pair") as refused:
        add_file(changed(*place, value=value), "r.json")
    str(refused.value).encode()


def with_shots(model: str, **shots: int) -> bytes:
    return json.dumps({**RESULTS, "model_name": model, "n-shot": shots}).encode()


def test_a_group_is_run_as_its_tasks_are(tmp_path: Path, add_file: AddFile) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results_1.json").write_bytes(
        with_shots("m", leaderboard_bbh_snarks=3, leaderboard_bbh_navigate=5)
    )
    other = with_shots("n", leaderboard_bbh_snarks=3, leaderboard_bbh_navigate=4)
    (tmp_path / "out" / "results_2.json").write_bytes(other)
    root = create_store(tmp_path / "store").path
    with pytest.raises(InputError, match="leaderboard_bbh: shots 3, 5 for m, 3, 4 for n") as met:
        add_benchmarks(root, [tmp_path / "out"])
    assert "gsm8k" not in str(met.value)
    assert "snarks" not in str(met.value)


def test_groups_that_name_each_other_are_read(add_file: AddFile) -> None:
    groups = {"gsm8k": ["wikitext", "gsm8k"], "wikitext": ["gsm8k"]}
    added = add_file(changed("group_subtasks", value=groups), "r.json", benchmarks=("gsm8k",))
    assert scores(added, "benchmark", "n") == [("gsm8k", None)] * 2
