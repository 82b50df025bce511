"""`--name`: one name of a run, in every answer and for every pattern."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import lpp.capture
from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main
from lpp.sql.cli.command import main as sql
from lpp.store import open_store
from lpp.store.errors import InputError

TEXTS = ["The quick brown fox jumps over the lazy dog.", "A fox.", "is it 3 or 4? Ask anything."]


class Lab:
    """A store, and the commands that fill and ask it."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.root = model, folder / "store"
        self.corpus = folder / "texts.jsonl"
        self.corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def capture(self, *words: object) -> Result:
        given = ("--model", self.model, "--corpus", self.corpus, "--store", self.root)
        run = ("run", *given, "--context", 40, "--device", "cpu", *words)
        return CliRunner().invoke(main, [*map(str, run)])

    def ask(self, program: Any, *words: object) -> str:
        done = CliRunner().invoke(program, [*map(str, words)])
        assert done.exit_code == 0, done.output
        return done.output

    def names(self, *words: object) -> list[str]:
        """Names of the runs in the JSON of a question."""
        file = self.root.parent / "answer.json"
        self.ask(analyze, words[0], self.root, *words[1:], "--format", "json", "-o", file)
        runs: dict[str, str] = json.loads(file.read_text())["runs"]
        assert runs.items() <= open_store(self.root).names.items()
        return [*runs.values()]


@pytest.fixture
def lab(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Lab:
    return Lab(tiny_folder("llama"), tmp_path)


@pytest.mark.slow
def test_every_answer_has_the_name_and_every_pattern_finds_it(lab: Lab, tmp_path: Path) -> None:
    for seed, name in ((1, "after 1"), (2, "after 2")):
        done = lab.capture("--untrained-seed", seed, "--name", name)
        assert done.exit_code == 0, done.output
        assert f"{name} (" in done.output
    assert lab.capture("--untrained-seed", 3).exit_code == 0
    assert {*open_store(lab.root).names.values()} == {"after 1", "after 2", "untrained, seed 3"}

    alone = "untrained, seed 3"  # also where the run is beside no other
    for words, names in (
        (("profile", "AFTER*"), {"after 1", "after 2"}),
        (("profile", "--against", "after 2"), {"after 1", "after 2", alone}),
        (("profile", "*seed 3"), {alone}),
        (("layers", "after 2"), {"after 2"}),
        (("cka", "*seed 3"), {alone}),
        (("diff", "after 1", "untrained"), {"after 1", alone}),
        (("diff", "--against", "after 1", "after 2", "*seed 3"), {"after 1", "after 2", alone}),
    ):
        assert {*lab.names(*words)} == names, words

    lab.ask(analyze, "diff", lab.root, "after 1", "after 2", "-o", tmp_path / "depth.svg")
    assert "after 2" in (tmp_path / "depth.svg").read_text()
    lab.ask(analyze, "report", lab.root, "-o", tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert all(name in report for name in open_store(lab.root).names.values())
    told = lab.ask(sql, lab.root, "SELECT name FROM runs ORDER BY name", "--format", "csv")
    assert told.split("\n")[1:4] == ["after 1", "after 2", '"untrained, seed 3"']
    assert "after 1" in lab.ask(main, "status", lab.root)


@pytest.mark.slow
def test_a_run_that_is_there_is_renamed_and_not_captured_again(lab: Lab) -> None:
    assert lab.capture().exit_code == 0
    (run,) = open_store(lab.root).runs.values()
    shards = run.fingerprint
    for name in ("first", "second"):
        done = lab.capture("--name", name)
        assert done.exit_code == 0, done.output
        assert f"{name} ({run.id}) was complete already" in done.output
        (now,) = open_store(lab.root).runs.values()
        assert (now.id, now.name, now.fingerprint) == (run.id, name, shards)
        assert now.verify() == []
    assert lab.capture().exit_code == 0  # without a name: it stays
    assert open_store(lab.root).run("second").id == run.id
    again = lpp.capture.capture(
        lab.model, lab.corpus, store=lab.root, context=40, device="cpu", name="third"
    )
    assert (again.id, again.name) == (run.id, "third")


@pytest.mark.slow
def test_a_name_of_another_run_is_refused_before_anything_is_captured(lab: Lab) -> None:
    assert lab.capture("--name", "base").exit_code == 0
    (run,) = open_store(lab.root).runs
    for name in ("Base", run):
        done = lab.capture("--untrained-seed", 1, "--name", name)
        assert done.exit_code == 2
        assert f"--name {name}: run {run} of " in done.output
        assert "Choose another name." in done.output
        assert [*open_store(lab.root).runs] == [run]


def test_a_name_that_a_pattern_could_mean_is_refused(lab: Lab) -> None:
    done = lab.capture("--name", "base*")
    assert done.exit_code == 2
    assert "--name 'base*': give 1 to 200 bytes of printable text" in done.output
    assert not lab.root.exists()
    with pytest.raises(InputError, match=r"^name 'a/b': give 1 to 200 bytes"):
        lpp.capture.capture(lab.model, lab.corpus, store=lab.root, name="a/b")
