"""Items of lm-eval's logs, joined to prompts that were captured from the same texts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_runs import MakeRun

from lpp.analyze import build_database
from lpp.analyze.cli.command import main
from lpp.analyze.scores.read_lm_eval import read_lm_eval_items
from lpp.sql import connect
from lpp.store.errors import InputError
from lpp.store.scores.items import read_items

TIME = "2026-11-26T18-12-56.395206"


def line(item: int, question: str, answers: list[str], gold: int, **changes: Any) -> str:
    """An item as lm-eval 0.4.9 logs it: numbers are strings."""
    chosen = item % len(answers)
    resps = [[[f"{-1.5 - (n != chosen)}", str(n == chosen)]] for n in range(len(answers))]
    logged = {
        "doc_id": item,
        "doc": {"question": question},
        "target": str(gold),
        "arguments": {
            f"gen_args_{n}": {"arg_0": question, "arg_1": answer}
            for n, answer in enumerate(answers)
        },
        "resps": resps,
        "filter": "none",
        "metrics": ["acc", "pair"],
        "doc_hash": "ab" * 32,
        "acc": float(chosen == gold),
        "pair": [1, 2],
    }
    return json.dumps({**logged, **changes}) + "\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of lm-eval: one model, one task of three items with two answers."""
    folder = tmp_path / "results" / "org__One"
    folder.mkdir(parents=True)
    document = {"results": {"two": {"acc,none": 2 / 3}}, "model_name": "org/One"}
    (folder / f"results_{TIME}.json").write_text(json.dumps(document))
    lines = [line(n, f"Is {n} even?", [" yes", " no"], n % 2 if n < 2 else 1) for n in range(3)]
    (folder / f"samples_two_{TIME}.jsonl").write_text("".join(lines))
    return folder.parent


@pytest.fixture
def root(make_run: MakeRun) -> Path:
    """Two runs of the model with the texts of items: the second has those of two items, one cut."""
    texts = [
        ["Is 0 even? yes", "other", "text"],
        ["Is 1 even? no", "Is 0 even? yes\n", "Is 0 even? no"],
    ]
    for lengths, held in zip(((4, 5, 3), (4, 5, 3, 9)), texts, strict=True):
        more = [*held, "Is 2 even? no"][: len(lengths)]
        made = make_run(
            model="org/One", lengths=lengths, context=6, sites=("final",), carried={"text": more}
        )
    return Path(made.root)


def add(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["benchmarks", "add", *map(str, arguments)])


def test_items_are_joined_to_the_run_that_has_most_of_their_texts(
    root: Path, results: Path
) -> None:
    done = add(root, results, "--items")
    assert done.exit_code == 0, done.output
    rows = read_items(root).to_pylist()
    (run,) = {row["run"] for row in rows}
    assert f"1 of 3 items joined to prompts of {run}" in done.stdout
    assert [row["prompt_ids"] for row in rows] == [[1, 2], [None, 0], [None, None]]
    assert [row["log_likelihoods"] for row in rows] == [[-1.5, -2.5], [-2.5, -1.5], [-1.5, -2.5]]
    assert [row["greedy"] for row in rows] == [[True, False], [False, True], [True, False]]
    assert [(row["gold"], row["chosen"], row["correct"]) for row in rows] == [
        (0, 0, True),
        (1, 1, True),
        (1, 0, False),
    ]
    assert {(row["model"], row["task"], row["source"]) for row in rows} == {
        ("org/One", "two", "lm-eval")
    }
    assert [row["item_cluster"] for row in rows] == [None, None, None]
    assert [json.loads(row["metrics"]) for row in rows] == [{"acc": 1}, {"acc": 1}, {"acc": 0}]
    build_database(root)
    with connect(root) as connection:
        query = (
            "SELECT item, list_position(items.prompt_ids, prompt_id) - 1 FROM items JOIN prompts "
            "USING (run) WHERE list_contains(items.prompt_ids, prompt_id) ORDER BY ALL"
        )
        assert connection.sql(query).fetchall() == [(0, 0), (0, 1), (1, 1)]
    again = add(root, results, "--items")
    assert again.exit_code == 0, again.output
    assert "were in" in again.stdout


@pytest.mark.slow
def test_a_run_that_is_said_is_the_only_one(root: Path, results: Path) -> None:
    add(root, results, "--items")
    (best,) = set(read_items(root)["run"].to_pylist())
    build_database(root)
    with connect(root) as connection:
        (other,) = connection.sql(f"SELECT run FROM runs WHERE run <> '{best}'").fetchall()[0]
    done = add(root, results, "--items", "--replace", "--match", f"org/One={other}")
    assert done.exit_code == 0, done.output
    rows = read_items(root).to_pylist()
    assert {row["run"] for row in rows} == {other}
    assert [row["prompt_ids"] for row in rows] == [[0, None], [None, None], [None, None]]


def test_items_without_a_prompt_are_kept_without_a_run(make_run: MakeRun, results: Path) -> None:
    root = make_run(model="org/One", lengths=(4, 5), context=5, sites=("final",)).root
    done = add(root, results, "--items")
    assert done.exit_code == 0, done.output
    assert "0 of 3 items" in done.stdout
    rows = read_items(root).to_pylist()
    assert {row["run"] for row in rows} == {None}
    assert {tuple(row["prompt_ids"]) for row in rows} == {(None, None)}


def test_without_being_asked_for_no_item_is_read(root: Path, results: Path) -> None:
    assert add(root, results).exit_code == 0
    assert len(read_items(root)) == 0


@pytest.mark.parametrize(
    ("changes", "gold", "chosen", "correct"),
    [
        ({"target": " no"}, 1, 0, True),  # the answer's text
        ({"target": "7"}, None, 0, True),
        ({"metrics": ["acc", "acc_mutual_info"], "acc_mutual_info": 0.0}, None, None, True),
        ({"metrics": []}, 0, 0, True),  # by the answers
        ({"metrics": [], "target": "1"}, 1, 0, False),
    ],
)
def test_what_is_right_and_what_was_chosen(
    changes: dict[str, Any], gold: int | None, chosen: int | None, correct: bool | None
) -> None:
    logged = line(0, "Is 0 even?", [" yes", " no"], 0, **changes).encode()
    (item,) = read_lm_eval_items(logged, "x", "t").to_dicts()
    assert (item["gold"], item["chosen"], item["correct"]) == (gold, chosen, correct)


def test_whole_texts_and_what_was_written() -> None:
    whole = {"arguments": {"gen_args_0": {"arg_0": "A text."}}, "resps": [["-12.5"]]}
    written = {
        "arguments": {"gen_args_0": {"arg_0": "2 + 2 =", "arg_1": {"until": ["\n"]}}},
        "resps": [[" 4"]],
    }
    lines = [line(n, "", [""], 0, metrics=[], **some) for n, some in enumerate((whole, written))]
    text, generation = read_lm_eval_items("".join(lines).encode(), "x", "t").to_dicts()
    assert text["texts"] == [["A text."]]
    assert text["log_likelihoods"] == [-12.5]
    assert generation["texts"] == [["2 + 2 = 4", "2 + 2 ="]]
    assert generation["log_likelihoods"] == [None]
    for item in (text, generation):
        assert (item["gold"], item["chosen"], item["correct"]) == (None, None, None)


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "[]",
        "{}",
        line(0, "q", ["a"], 0, resps=[]),
        line(0, "q", ["a"], 0, resps=[[]]),
        line(1 << 31, "q", ["a"], 0),
        line(0, "q", ["a"], 0, metrics=["f1"]),
        line(0, "q", ["a"], 0, filter="half a pair: \ud800"),
        line(0, "q", ["a"], 0, doc_id=math.inf),
        line(0, "q", ["a"], 0, resps=[[[10**400, "True"]]]),
    ],
)
def test_a_file_that_is_no_log_is_refused(root: Path, results: Path, broken: str) -> None:
    (log,) = results.rglob("samples_*.jsonl")
    log.write_text(line(0, "q", ["a"], 0) + broken)
    with pytest.raises(InputError, match="line 2"):
        read_lm_eval_items(log.read_bytes(), "log", "two")
    done = add(root, results, "--items")
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert len(read_items(root)) == 0


def test_an_item_that_is_logged_twice_is_refused(root: Path, results: Path) -> None:
    (log,) = results.rglob("samples_*.jsonl")
    log.write_text(log.read_text() + log.read_text().splitlines()[1])
    done = add(root, results, "--items")
    assert done.exit_code == 2
    assert "item 1 of two is there twice" in done.stderr
    assert len(read_items(root)) == 0


def test_results_without_a_log_are_refused(root: Path, results: Path) -> None:
    (log,) = results.rglob("samples_*.jsonl")
    log.rename(log.with_name(log.name.replace("18-12", "19-00")))  # of another evaluation
    done = add(root, results, "--items")
    assert done.exit_code == 2
    assert "--log_samples" in done.stderr


def test_the_cluster_that_the_task_declares_comes_along(root: Path, results: Path) -> None:
    (path,) = results.rglob("results_*.json")
    declared = {"two": {"metadata": {"lpp": {"cluster": "question"}}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"configs": declared}))
    assert add(root, results, "--items").exit_code == 0
    rows = read_items(root).to_pylist()
    assert [row["item_cluster"] for row in rows] == [f"Is {n} even?" for n in range(3)]
