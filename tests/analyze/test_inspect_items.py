"""`lpp-analyze benchmarks add` with logs of inspect: scores, and items joined to prompts."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_runs import MakeRun

from lpp.analyze import build_database
from lpp.analyze.cli.command import main
from lpp.sql import connect
from lpp.store import open_store, read_scores
from lpp.store.scores.items import read_items
from lpp.store.scores.scores import score_sets, verify_scores

LOGS = Path(__file__).parent / "inspect_logs"
LARGEST = "Which planet is the largest?\nA) Jupiter\nB) Mars\nC) Venus\nA,B,C?"
FASTEST = "Which year is the shortest?\nA) Earth\nB) Mercury\nC) Uranus\nA,B,C?"


@pytest.fixture
def root(make_run: MakeRun) -> Path:
    """A run with prompts of two of the planets and of one sum."""
    texts = [f"{LARGEST}\n\nANSWER: A", "another", FASTEST, "Be brief.\n\n1 + 2 =\n\n3"]
    made = make_run(
        model="org/One", lengths=(4, 5, 3, 5), sites=("final",), carried={"text": texts}
    )
    return Path(made.root)


def add(root: Path, *arguments: object) -> Result:
    words = ["benchmarks", "add", str(root), *map(str, arguments)]
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("name", ["planets.eval", "planets.json"])
def test_a_log_gives_scores_and_items(root: Path, name: str) -> None:
    (run,) = open_store(root).runs
    done = add(root, LOGS / name, "--items", "--group", "level")
    assert done.exit_code == 0, done.output
    assert f"org/One, planets: 2 of 3 items joined to prompts of {run}" in done.stdout
    (score,) = read_scores(root).to_pylist()
    assert (score["source"], score["kind"], score["model"]) == ("inspect", "inspect", "org/One")
    assert (score["metric"], score["value"], score["n"]) == ("accuracy,choice", 2 / 3, 3)
    rows = read_items(root).to_pylist()
    assert [row["item"] for row in rows] == [0, 1, 2]
    assert {(row["run"], row["task"], row["filter"]) for row in rows} == {
        (run, "planets", "choice")
    }
    # a prompt stands at the answer that the model gave
    assert [row["prompt_ids"] for row in rows] == [
        [0, None, None],
        [None, None, 2],
        [None, None, None],
    ]
    assert [(row["gold"], row["chosen"], row["correct"]) for row in rows] == [
        (0, 0, True),
        (1, 2, False),
        (2, 2, True),
    ]
    assert [row["item_group"] for row in rows] == ["easy", "easy", "hard"]
    assert [json.loads(row["metrics"]) for row in rows] == [{"choice": n} for n in (1, 0, 1)]
    assert len({row["doc_sha256"] for row in rows}) == 3
    build_database(root)
    with connect(root) as connection:
        query = "SELECT avg(correct::INT), any_value(value) FROM items JOIN benchmarks USING (run)"
        assert connection.sql(query).fetchall() == [(2 / 3, 2 / 3)]
    assert verify_scores(root) == []
    assert "were in" in add(root, LOGS / name, "--items", "--group", "level").stdout


def test_what_is_kept_of_a_log_is_its_header(root: Path) -> None:
    assert add(root, LOGS / "planets.json").exit_code == 0
    assert len(read_items(root)) == 0
    (found,) = score_sets(root)
    ((name, data),) = found.original().items()
    assert name == "planets.json.header.json"
    assert "samples" not in json.loads(data)
    assert json.loads(data)["eval"]["task"] == "planets"


def test_a_folder_of_logs_is_one_source(root: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    shutil.copy(LOGS / "planets.json", logs / "2026-11-26T20-12-00-00-00_planets_ab12.json")
    shutil.copy(LOGS / "sums.eval", logs)
    (logs / "logs.json").write_text("{}")  # inspect's list of a folder is no log
    done = add(root, logs, "--items")
    assert done.exit_code == 0, done.output
    rows = read_items(root).to_pylist()
    assert sorted({(row["task"], row["filter"]) for row in rows}) == [
        ("planets", "choice"),
        ("sums", "match"),
        ("sums", "match1"),
    ]
    assert [row["prompt_ids"] for row in rows if row["filter"] == "match"] == [[3], [None]]
    (found,) = score_sets(root)
    assert "logs/org_One/items.arrow" in found.original()
    # one task twice has two scores
    shutil.copy(LOGS / "planets.eval", logs)
    done = add(root, logs, "--replace")
    assert done.exit_code == 2


def test_of_several_epochs_the_first_gives_the_items(root: Path) -> None:
    done = add(root, LOGS / "epochs.eval", "--items")
    assert done.exit_code == 0, done.output
    assert "asked 2 times" in done.stderr
    assert [row["value"] for row in read_scores(root).to_pylist()] == [0.5]
    rows = read_items(root).to_pylist()
    assert [(row["item"], row["chosen"], row["correct"]) for row in rows] == [
        (0, 0, True),
        (1, 2, False),
        (2, 2, True),
    ]


def test_logs_of_other_settings_are_no_source_together(root: Path, tmp_path: Path) -> None:
    document = json.loads((LOGS / "planets.json").read_bytes())
    document["eval"]["model"] = "hf/org/Two"
    document["plan"]["config"]["temperature"] = 0.7
    (tmp_path / "two.json").write_text(json.dumps(document))
    done = add(root, LOGS / "planets.json", tmp_path / "two.json")
    assert done.exit_code == 2
    assert "temperature" in done.stderr
    assert len(read_scores(root)) == 0


def test_a_group_that_no_sample_has_is_refused(root: Path) -> None:
    for arguments, says in ((("--items", "--group", "lvl"), "lvl"), (("--group", "x"), "--items")):
        done = add(root, LOGS / "planets.eval", *arguments)
        assert done.exit_code == 2
        assert says in done.stderr
    assert len(read_scores(root)) == 0


@pytest.mark.parametrize("path", ["./my-model", "/models/my-model", "..", "Modell ä"])
def test_a_local_model_goes_by_its_folder(root: Path, tmp_path: Path, path: str) -> None:
    document = json.loads((LOGS / "planets.json").read_bytes())
    document["eval"]["model_args"] = {"model_path": path}
    (tmp_path / "log.json").write_text(json.dumps(document))
    done = add(root, tmp_path / "log.json", "--items")
    assert done.exit_code == 0, done.output
    assert set(read_items(root)["model"].to_pylist()) == {path}
    assert verify_scores(root) == []


def test_a_log_that_is_not_there_is_said(root: Path, tmp_path: Path) -> None:
    done = add(root, tmp_path / "gone.eval")
    assert done.exit_code == 2
    assert "inspect" not in done.stderr


def test_logs_and_results_of_lm_eval_are_two_sources(root: Path, tmp_path: Path) -> None:
    results = {"results": {"two": {"acc,none": 0.5}}, "model_name": "org/One"}
    (tmp_path / "results_1.json").write_text(json.dumps(results))
    done = add(root, LOGS / "planets.eval", tmp_path / "results_1.json")
    assert done.exit_code == 2
    assert "two sources" in done.stderr
