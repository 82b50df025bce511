"""`STORE::RUN` of a store that is made to harm: one message, exit code 2, and no wait."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from flipped_items import TASK, TwoRuns, two_runs
from made_runs import MakeRun
from sealed import reseal
from stored import object_path

from lpp.analyze.cli.command import main
from lpp.store.format.tables import ITEMS_SCHEMA, encode_table
from lpp.store.scores.scores import score_sets


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    kept = path.with_name(".kept")
    path.rename(kept)
    path.symlink_to(kept)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _enormous(path: Path) -> None:
    os.truncate(path, 1 << 40)  # holes: it takes no room


def _nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def _of_another_format(path: Path) -> None:
    path.write_text(json.dumps({"format": "lpp-store", "version": 99}))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


HARMS: Sequence[Callable[[Path], None]] = (
    *(_fifo, _link, _device, _enormous),
    *(_nested, _of_another_format, _folder, _empty),
)

OF_RUNS = {
    "root": "lpp.json",
    "record": "runs/*/COMMIT.json",
    "plan": "runs/*/*/plan.json",
    "prompts": "runs/*/*/prompts.arrow",
    "shard": "runs/*/shards/00000/COMMIT.json",
    "tokens": "runs/*/shards/00000/*/tokens.arrow",
    "rows": "runs/*/shards/00000/*/hidden.zarr/final/c/0/0",
    "array": "runs/*/shards/00000/*/hidden.zarr/final/zarr.json",
}

OF_ITEMS = {
    **{name: OF_RUNS[name] for name in ("root", "record", "plan", "prompts")},
    "record of items": "benchmarks/*/COMMIT.json",
    "items": "benchmarks/*/*/original/m/items.arrow",
}

OF_PROBES = {name: place for name, place in OF_RUNS.items() if name != "tokens"}  # not read

PLACES = {"diff": OF_RUNS, "items": OF_ITEMS, "probe": OF_PROBES}


@pytest.fixture(scope="module")
def both(make_shared_run: MakeRun) -> TwoRuns:
    return two_runs(make_shared_run, items=20, per_shard=20)


@pytest.fixture
def theirs(both: TwoRuns, tmp_path: Path) -> Path:
    """A second store, with the same runs."""
    return Path(shutil.copytree(both.root, tmp_path / "theirs"))


def commands(ours: Path, theirs: Path) -> Iterator[list[str]]:
    yield ["diff", str(ours), "first", f"{theirs}::second"]
    yield ["diff", str(ours), f"{theirs}::second", "first"]
    yield ["items", str(ours), "--task", TASK, "second", "--against", f"{theirs}::first"]
    yield ["items", str(ours), "--task", TASK, f"{theirs}::first", "--against", "second"]
    label = ["--label", "n_before_question=1"]
    yield ["probe", str(ours), "first", *label, "--against", f"{theirs}::second"]


def refused(words: list[str], what: str) -> None:
    done = CliRunner().invoke(main, words)
    said = f"{what}: {done.exit_code} {done.output[-600:]} {done.exception!r}"
    assert done.exit_code == 2, said
    assert "This is a bug" not in done.output, said
    assert len(done.output) < 2000, said


@pytest.mark.slow
def test_without_harm_there_are_answers(both: TwoRuns, theirs: Path, tmp_path: Path) -> None:
    ours = Path(shutil.copytree(both.root, tmp_path / "ours"))  # answers are kept there
    for words in commands(ours, theirs):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("command", PLACES)
def test_harm_at_every_place(
    both: TwoRuns, theirs: Path, command: str, harm: Callable[[Path], None]
) -> None:
    for name, place in PLACES[command].items():
        shutil.rmtree(theirs)
        shutil.copytree(both.root, theirs)
        paths = list(theirs.glob(place))
        assert paths, place
        for path in paths:
            harm(path)
        for words in commands(both.root, theirs):
            if words[0] == command:
                refused(words, f"{name}, {harm.__name__}, {words}")


LIES: Mapping[str, Mapping[str, Any]] = {
    "an answer chosen beyond the last": {"chosen": 99},
    "an answer before the first": {"chosen": -1},
    "a right answer beyond the last": {"gold": 3},
    "a right answer before the first": {"gold": -3},
    "no prompt": {"prompt_ids": []},
    "fewer ln p than answers": {"log_likelihoods": [-1.0]},
    "fewer lengths than answers": {"n_answer": [1]},
    "one item again and again": {"item": 7, "doc_sha256": "7"},
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_items_that_cannot_be(both: TwoRuns, theirs: Path, lie: str) -> None:
    items = pa.Table.from_pylist([{**row, **LIES[lie]} for row in both.a.rows], schema=ITEMS_SCHEMA)
    (source,) = (s for s in score_sets(theirs) if s.record.source == both.a.rows[0]["source"])
    object_path(source.path, "original/m/items.arrow").write_bytes(encode_table(items))
    reseal(source.path)
    for words in commands(both.root, theirs):
        if words[0] == "items":
            refused(words, lie)


@pytest.mark.parametrize(
    "name",
    ["/::second", "../../../::second", "/dev/zero::x", "nowhere::x", "./x::../y", "::"],
)
def test_a_second_store_that_is_none(
    both: TwoRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(["diff", str(both.root), "first", name], name)
