"""Stores of 0.1.0 are refused; what a later release adds is ignored."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from golden_stores import GOLDEN, OF_3, golden_3
from on_disk import on_disk
from sealed import reseal
from stored import object_path, only_run, stored_objects
from zarr_arrays import rows_of

from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture
from lpp.store import Run, RunWriter, add_scores, create_store, open_store, read_scores
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import CommitRecord, parse_record
from lpp.store.format.documents import canonical_json
from lpp.store.format.plan import parse_plan
from lpp.store.format.tables import encode_table
from lpp.store.runs.repair import find_damage
from lpp.store.runs.verify import verify_root
from lpp.store.scores.scores import verify_scores
from tests.store.make_golden import golden_plan, golden_prompts, golden_scores

SPEC = Path(__file__).parents[2] / "store" / "SPEC.md"


# A store of 0.1.0, which wrote formats 1 and 2.


@pytest.fixture(params=["v1", "v2"])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of such a store, to write into."""
    return shutil.copytree(GOLDEN / request.param, tmp_path / "older")


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(FormatError, match=r"0\.2\.0") as caught:
        call()
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION


def test_a_run_of_0_1_is_refused_and_stays(older: Path) -> None:
    before = stored_objects(older)
    run = only_run(older)
    refused(lambda: run.plan)
    first, *_ = run.verify()
    assert (first.where, "0.2.0" in first.what) == ("COMMIT.json", True)
    done = CliRunner().invoke(analyze, ["profile", str(older)])
    assert (done.exit_code, done.stdout, done.stderr.count("Error: ")) == (2, "", 1)
    assert "0.2.0" in done.stderr
    for words in (["repair"], ["status"]):
        CliRunner().invoke(capture, [*words, str(older)])
    assert stored_objects(older) == before


def test_a_run_of_0_1_is_not_written_over(tmp_path: Path) -> None:
    root = shutil.copytree(GOLDEN / "v1", tmp_path / "store")
    before, plan = stored_objects(root), golden_plan(golden_prompts())
    assert plan.run_id == only_run(root).id
    refused(lambda: RunWriter(root, plan, golden_prompts()))
    assert stored_objects(root) == before


def test_a_shard_of_0_1_is_refused_and_stays(tmp_path: Path) -> None:
    root = shutil.copytree(GOLDEN / "v4", tmp_path / "store")
    (run,) = open_store(root).runs.values()
    (old,) = (GOLDEN / "v1" / "runs").iterdir()
    shutil.copy(old / "shards/00000/COMMIT.json", on_disk(run.path) / "shards/00001/COMMIT.json")
    refused(lambda: Run(run.path).shards)
    damage = find_damage(run.path, run.plan)
    assert (damage.shards, [problem.where for problem in damage.beyond]) == (
        {},
        ["shards/00001/COMMIT.json"],
    )


def test_an_altered_format_is_no_record_of_0_1() -> None:
    for run in golden_3().values():
        data = (on_disk(run.path) / "COMMIT.json").read_bytes()
        with pytest.raises(FormatError) as caught:
            parse_record(CommitRecord, data.replace(b'"format":3', b'"format":2'), "here")
        assert caught.value.kind is ErrorKind.CORRUPT


def test_a_store_of_0_1_takes_new_runs_and_scores(older: Path) -> None:
    plan = replace(golden_plan(golden_prompts()), stored_dtype="float16")
    writer = RunWriter(older, plan, golden_prompts())
    assert add_scores(older, "golden board", golden_scores(), {"board.csv": b"1"})
    assert writer.run.commit.format == 3
    assert verify_root(older) == verify_scores(older) == []
    assert read_scores(older).num_rows == 2


# What SPEC.md quotes of the golden store.


def test_the_specification_quotes_the_golden_store() -> None:
    text = SPEC.read_text("utf-8")
    example = text[text.index("## 11. ") :]
    (shard,) = golden_3()["float16-4b3b7ace"].shards
    quoted = re.search(r"```json\n(.*?)\n```", example, re.DOTALL)
    assert quoted is not None
    assert (
        canonical_json(json.loads(quoted[1])) == (on_disk(shard.path) / "COMMIT.json").read_bytes()
    )
    lines = re.findall(r"^    ([0-9a-f]{8}(?: [0-9a-f]{8})*)  .+$", example, re.MULTILINE)
    stored = object_path(shard.path, "hidden.zarr/final/c/0/0").read_bytes()
    assert bytes.fromhex(" ".join(lines)) == stored
    shard = golden_3()[OF_3].shards[0]
    stored = object_path(shard.path, "hidden.zarr/block.1/c/0/0").read_bytes()
    assert stored[16:18].hex(" ") == "20 41"
    assert "stored as `20 41`" in example
    assert np.array([0x41200000], np.uint32).view(np.float32) == 10.0


# What format 3 leaves room for.


def test_a_reader_ignores_what_a_later_release_adds(tmp_path: Path) -> None:
    """A column of prompts, fields of the plan and of a record, and a directory that runs share."""
    root = on_disk(create_store(tmp_path / "store").path)
    first = golden_3()["float16-4b3b7ace"]
    document = json.loads(json.dumps(first.plan.document))
    document |= {"later": "0123456789abcdef"}
    document["tokenizer"] |= {"merges": 50}
    plan = parse_plan(document, "later")
    rows = rows_of(first.array("final", dtype="stored")).view(np.float16)
    writer = RunWriter(root, plan, first.prompts())
    writer.write_shard(0, {"final": rows}, first.tokens().to_table())
    (root / "adapters/0123456789abcdef").mkdir(parents=True)
    (root / "adapters/0123456789abcdef/COMMIT.json").write_bytes(b"{}")
    run = only_run(root)
    prompts = first.prompts().append_column("mood", pa.array([["x" * 10_000], None]))
    object_path(run.path, "prompts.arrow").write_bytes(encode_table(prompts))
    reseal(run.path, lambda record: record.update(seen_by={"readers": "none"}))
    run = only_run(root)
    assert run.verify() == verify_root(root) == []
    assert run.prompts().equals(first.prompts())
    assert run.tokens().to_table().equals(first.tokens().to_table())
    assert rows_of(run.array("final", dtype="stored")).tobytes() == rows.tobytes()
    assert (run.plan.hash, run.plan.document) == (plan.hash, document)
