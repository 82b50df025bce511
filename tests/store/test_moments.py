"""Moments of 0.2.0: the rows beside them are read, and a run without rows is refused."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from golden_stores import GOLDEN, OF_3
from on_disk import on_disk
from sealed import reseal
from stored import object_path

from lpp.analyze.cli.command import main
from lpp.store import RunWriter, create_store, open_store
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.documents import canonical_json, document_hash
from lpp.store.objects.place import Place

STORE = GOLDEN / "v3"


def test_rows_beside_moments_are_read() -> None:
    run = open_store(STORE).runs[OF_3]
    assert run.plan.has_moments
    assert run.verify() == []
    assert any(key.startswith("moments.") for key in run.shards[0].record.objects)
    (block,) = run.blocks("final")
    assert block.values.tolist() == [[100, -100], [200, -200], [300, -300]]
    assert run.tokens().to_table()["entropy"].to_pylist() == [1.25, 2.25, 3.25, None, None]


def test_an_altered_byte_of_moments_is_found(tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "store")
    run = open_store(tmp_path / "store").runs[OF_3]
    path = object_path(run.shards[0].path, "moments.arrow")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (problem,) = run.verify()
    assert problem.where == f"shards/00000/{path.parent.name}/moments.arrow"


def test_no_shard_is_added_beside_moments(tmp_path: Path) -> None:
    run = open_store(STORE).runs[OF_3]
    root = create_store(tmp_path / "store").path
    with pytest.raises(InputError, match=r"0\.2\.0") as caught:
        RunWriter(root, run.plan, run.prompts())
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
    assert open_store(root).runs == {}


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "store")
    path = as_moments(tmp_path / "store" / "runs" / OF_3)
    held = {entry.name for entry in (tmp_path / "store").iterdir()}
    run = open_store(tmp_path / "store").runs[path.name]
    with pytest.raises(FormatError, match=r"0\.2\.0") as caught:
        _ = run.plan
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
    (problem,) = run.verify()
    assert (problem.where, "0.2.0" in problem.what) == (f"{run.commit.base}/plan.json", True)
    done = CliRunner().invoke(main, ["profile", str(tmp_path / "store"), run.id])
    assert (done.exit_code, done.stdout, done.stderr.count("Error: ")) == (2, "", 1)
    assert "0.2.0" in done.stderr
    assert {entry.name for entry in (tmp_path / "store").iterdir()} == held


def as_moments(run: Place) -> Path:
    """Rename a run to one with moments and no rows, as 0.2.0 wrote it. Returns its directory. Its
    shards stay as they are: nobody comes to look at them.
    """
    directory = on_disk(run)
    path = object_path(run, "plan.json")
    document = {**json.loads(path.read_bytes()), "keep": "moments"}
    path.write_bytes(canonical_json(document))
    made = document_hash(document)
    reseal(directory, lambda record: record.update(plan=made))
    return directory.rename(f"{str(directory)[:-8]}{made[:8]}")
