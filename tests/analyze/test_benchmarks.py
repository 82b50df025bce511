"""Scores from files into a store and its database, as the commands do it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_runs import MakeRun
from stored import stored_objects

from lpp.analyze import ScoreSettings, add_benchmarks, build_database
from lpp.analyze.cli.command import main
from lpp.sql import connect
from lpp.sql.database.outdated import doubts
from lpp.store import open_store, read_scores
from lpp.store.errors import InputError

HOSTILE = "bad\x1b[31m/name"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env={"COLUMNS": "80"})


def results(folder: Path, model: str, value: float, name: str = "results_1.json") -> Path:
    """A result file of lm-eval as it lies in an output folder."""
    path = folder / model.replace("/", "__") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"acc,none": value, "acc_stderr,none": 0.01, "alias": "task"}
    path.write_text(json.dumps({"results": {"task": entry}, "model_name": model}))
    return path


@pytest.fixture
def root(make_run: MakeRun) -> Path:
    """Two models, of which one was captured twice."""
    made = make_run(model="org/One", lengths=(4, 5), context=5, sites=("final",))
    make_run(model="org/Two", lengths=(4, 5), context=5, sites=("final",))
    make_run(model="org/Two", lengths=(4, 5), context=4, sites=("final",))
    return Path(made.root)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(f"model,BBH,X\none,34.5,\norg/Two,45,2\n{HOSTILE},50,3\n")
    return path


def test_what_is_missing_or_matched_to_none_is_told(root: Path, table: Path) -> None:
    done = run("benchmarks", "add", root, table)
    assert done.exit_code == 0, done.output
    assert "mine: 5 scores of 3 models on 2 benchmarks are in" in done.stdout
    assert "1 of 3 models have a run." in done.stdout
    assert "missing: X of one (mine.csv, row 1)" in done.stderr
    assert "no run: org/Two: it fits 2 runs: two-" in done.stderr
    assert r"no run: bad\x1b[31m/name: it fits no run" in done.stderr
    assert "\x1b" not in done.output
    again = run("benchmarks", "add", root, table)
    assert again.exit_code == 0


@pytest.mark.slow
def test_scores_survive_every_rebuild_of_the_database(root: Path, table: Path) -> None:
    run("benchmarks", "add", root, table)
    for _ in range(2):
        build_database(root)
        with connect(root) as connection:
            rows = connection.sql(
                "SELECT model, split_part(run, '-', 1), benchmark, value, matched, "
                "match_note <> '' FROM benchmarks WHERE benchmark = 'BBH' ORDER BY value"
            ).fetchall()
            published = connection.sql("SELECT count(*) FROM published").fetchall()
        assert rows == [
            ("one", "one", "BBH", 34.5, "name", False),
            ("org/Two", None, "BBH", 45.0, "several", True),
            (HOSTILE, None, "BBH", 50.0, "none", True),
        ]
        assert published == [(8,)]


@pytest.mark.slow
def test_a_database_is_brought_up_to_date_at_once(root: Path, table: Path) -> None:
    build_database(root)
    run("benchmarks", "add", root, table)
    count = "SELECT (SELECT count(*) FROM benchmarks), (SELECT count(*) FROM profiles)"
    with connect(root) as connection:
        assert connection.sql(count).fetchall() == [(5, 3)]
    assert run("benchmarks", "remove", root, "mine").exit_code == 0
    with connect(root) as connection:
        assert connection.sql(count).fetchall() == [(0, 3)]
    done = run("benchmarks", "remove", root, "mine")
    assert done.exit_code == 2


@pytest.mark.slow
def test_match_says_whose_run_it_is(root: Path, table: Path) -> None:
    run("benchmarks", "add", root, table)
    two = next(path.name for path in sorted((root / "runs").iterdir()) if "two" in path.name)
    said = ("--match", f"org/Two={open_store(root).names[two]}", "--replace")
    done = run("benchmarks", "add", root, table, *said)
    assert "2 of 3 models have a run." in done.stdout
    build_database(root)
    with connect(root) as connection:
        found = connection.sql(
            "SELECT DISTINCT run, matched FROM benchmarks WHERE model = 'org/Two'"
        )
        assert found.fetchall() == [(two, "said")]
    shown = run("benchmarks", "list", root)
    assert "mine (csv): 5 scores, 3 models, 2 benchmarks" in shown.stdout
    assert f"org/Two -> {two}" in shown.stdout


def test_a_folder_of_lm_eval_is_one_source(root: Path, tmp_path: Path) -> None:
    for model, value in (("org/One", 0.25), ("org/Two", 0.5)):
        results(tmp_path / "out", model, value)
    done = run("benchmarks", "add", root, tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = read_scores(root).to_pylist()
    assert [(r["model"], r["metric"], r["value"], r["source"], r["kind"]) for r in rows] == [
        ("org/One", "acc,none", 0.25, "lm-eval", "lm-eval"),
        ("org/Two", "acc,none", 0.5, "lm-eval", "lm-eval"),
    ]
    (source,) = (root / "benchmarks").iterdir()
    kept = [f"original/out/org__{model}/results_1.json" for model in ("One", "Two")]
    assert set(stored_objects(source)) == {"COMMIT.json", "scores.arrow", *kept}


def test_some_models_of_a_leaderboard(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    path.write_text("fullname,BBH\norg/One,34.5\nx/Y,1\nx/Y,2\n")
    assert "there twice: 1 at board.csv, row 2" in run("benchmarks", "add", root, path).stderr
    done = run("benchmarks", "add", root, path, "--model", "org/*")
    assert done.exit_code == 0, done.output
    assert read_scores(root)["model"].to_pylist() == ["org/One"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--match", "nobody=x"), "the files name no model 'nobody'; they name bad"),
        (("--match", "one=x"), "'x' names no run"),
        (("--match", "one"), "'one' is not NAME=RUN"),
        (("--model", "z*"), "there is no score in what was asked for"),
        (("--source", "published"), "published reference"),
        (("--source", " "), "' ' is no name"),
        (("--unit", "fraction"), "BBH (score) of one is 34.5, no fraction"),
    ],
)
def test_bad_arguments_are_one_message(
    root: Path, table: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("benchmarks", "add", root, table, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (root / "benchmarks").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "model,BBH\na,0.34\nb,34\n", "BBH (score) mixes percent and fraction"),
        ("m.csv", "model,BBH\na,34\na,35\n", "BBH (score) of a is there twice"),
        ("m.csv", "model,BBH\na,high\n", "row 1, BBH: 'high' is not a number"),
        ("m.csv", "model,BBH\na,\n", "there is no score"),
        ("m.txt", "hello", "not a file of scores by its ending"),
        ("m.json", "{}", "not a result file of lm-eval"),
    ],
)
def test_bad_files_are_one_message(
    root: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    done = run("benchmarks", "add", root, tmp_path / name)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not (root / "benchmarks").exists()


def test_files_of_two_kinds_or_two_tables_are_no_source(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("model,Y\norg/One,5\n")
    board = tmp_path / "board.csv"
    board.write_text("fullname,BBH\norg/One,34.5\n")
    made = results(tmp_path / "out", "org/One", 0.5)
    for files in ((other, board), (other, made), (made, board)):
        with pytest.raises(InputError, match="they score differently"):
            add_benchmarks(root, files)
    more = tmp_path / "more.csv"
    more.write_text("model,Z\norg/One,6\n")
    with pytest.raises(InputError, match="--source NAME"):
        add_benchmarks(root, (other, more))
    assert add_benchmarks(root, (other, more), ScoreSettings(source="both")).written
    with pytest.raises(InputError, match=r"holds no results_\*\.json"):
        add_benchmarks(root, (root / "runs",))
    with pytest.raises(InputError, match="No such file"):
        add_benchmarks(root, (tmp_path / "gone.csv",))


@pytest.mark.slow
def test_a_source_whose_record_is_lost_is_named(root: Path, table: Path) -> None:
    """By every command that reads scores; adding the files again brings the source back."""
    assert run("benchmarks", "add", root, table, "--source", "here").exit_code == 0
    assert run("benchmarks", "add", root, table, "--source", "gone").exit_code == 0
    build_database(root)
    listed = run("benchmarks", "list", root).stdout
    (record,) = root.glob("benchmarks/gone-*/COMMIT.json")
    record.unlink()
    done = run("benchmarks", "list", root)
    assert done.exit_code == 0
    assert str(record.parent) in done.stderr
    assert "benchmarks add" in done.stderr
    assert "here" in done.stdout
    assert "gone" not in done.stdout
    with connect(root) as connection:  # which logs it
        assert connection.sql("SELECT DISTINCT source FROM benchmarks").fetchall()
    assert [line for line in doubts(root) if str(record.parent) in line]
    assert run("benchmarks", "add", root, table, "--source", "gone").exit_code == 0
    assert run("benchmarks", "list", root).stdout == listed
    assert doubts(root) == []


def test_a_leaderboard_is_in_percent(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    path.write_text("fullname,BBH\norg/One,0.78\nx/Y,12\n")
    assert run("benchmarks", "add", root, path).exit_code == 0
    path.write_text("fullname,BBH\norg/One,0.78\nx/Y,120\n")
    done = run("benchmarks", "add", root, path, "--replace")
    assert done.exit_code == 2
    assert "120, no percent" in done.stderr


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"n-shot": {"task": 25}}, "task: shots 0 for org/One, 25 for org/Two"),
        ({"versions": {"task": 1.0}}, "task: version 2.0 for org/One, 1.0 for org/Two"),
        ({"config": {"limit": 20.0}}, "task: items all for org/One, limited to 20 for org/Two"),
        ({"chat_template": "{{m}}"}, "task: chat template none for org/One, applied for org/Two"),
        ({"system_instruction_sha": "0123456789"}, "system prompt none for org/One, 01234567"),
        ({"fewshot_as_multiturn": True}, "task: shots as turns no for org/One, yes for org/Two"),
    ],
)
def test_one_source_is_scored_in_one_way(
    root: Path, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    plain: dict[str, Any] = {
        **{"n-shot": {"task": 0}, "versions": {"task": 2.0}, "config": {"limit": None}},
        **{"chat_template": "", "system_instruction_sha": None, "fewshot_as_multiturn": False},
    }
    for model, said in (("org/One", plain), ("org/Two", plain)):
        path = results(tmp_path / "out", model, 0.5)
        path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    assert run("benchmarks", "add", root, tmp_path / "out").exit_code == 0
    path.write_text(json.dumps({**json.loads(path.read_text()), **other}))
    done = run("benchmarks", "add", root, tmp_path / "out", "--replace")
    assert done.exit_code == 2
    assert message in done.stderr
    alone = ("--model", "org/Two", "--source", "its-own")
    assert run("benchmarks", "add", root, tmp_path / "out", *alone).exit_code == 0
