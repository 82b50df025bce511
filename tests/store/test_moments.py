"""Moments of earlier releases: the rows beside them are read, and a run without rows is refused."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from older_stores import as_moments

from lpp.analyze.cli.command import main
from lpp.store import RunWriter, create_store, open_store
from lpp.store.errors import ErrorKind, FormatError, InputError

GOLDEN = Path(__file__).with_name("golden") / "v2"
RUN = "model-1b-untrained-f1767c43"


def test_rows_beside_moments_are_read() -> None:
    run = open_store(GOLDEN).runs[RUN]
    assert run.plan.has_moments
    assert run.verify() == []
    assert run.plan.hash.startswith("f1767c43")
    assert [run.commit.format, *(shard.record.format for shard in run.shards)] == [2, 2, 2]
    assert json.loads((GOLDEN / "lpp.json").read_bytes())["version"] == 1
    assert run.quarantine.to_pylist() == [
        {"prompt_id": 1, "reason": "not_finite", "site": "final", "position": 1, "detail": "told"}
    ]
    (block,) = run.blocks("final")
    assert block.values.tolist() == [[100, -100], [200, -200], [300, -300]]
    assert run.tokens().to_table()["entropy"].to_pylist() == [1.25, 2.25, 3.25, None, None]


def test_an_altered_byte_of_moments_is_found(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "store")
    run = open_store(tmp_path / "store").runs[RUN]
    path = tmp_path / "store" / "runs" / RUN / "shards/00000/moments.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert [problem.where for problem in run.verify()] == ["shards/00000/moments.arrow"]


def test_no_shard_is_added_beside_moments(tmp_path: Path) -> None:
    run = open_store(GOLDEN).runs[RUN]
    root = create_store(tmp_path / "store").path
    with pytest.raises(InputError, match=r"0\.2\.0") as caught:
        RunWriter(root, run.plan, run.prompts())
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
    assert open_store(root).runs == {}


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "store")
    path = as_moments(tmp_path / "store" / "runs" / RUN)
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.id == path.name
    with pytest.raises(FormatError, match=r"0\.2\.0") as caught:
        _ = run.plan
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
    (problem,) = run.verify()
    assert (problem.where, "0.2.0" in problem.what) == ("plan.json", True)
    done = CliRunner().invoke(main, ["profile", str(tmp_path / "store")])
    assert (done.exit_code, done.stdout, done.stderr.count("Error: ")) == (2, "", 1)
    assert "0.2.0" in done.stderr
    assert {entry.name for entry in (tmp_path / "store").iterdir()} == {"runs", "lpp.json"}
