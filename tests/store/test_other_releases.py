"""Stores of older releases are written by this one; what a later release adds is ignored."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from golden_stores import GOLDEN, OF_3, golden_3, records_of
from on_disk import on_disk
from sealed import reseal
from stored import object_path, only_run
from zarr_arrays import rows_of

from lpp.store import Run, RunWriter, add_scores, create_store, open_store, read_scores
from lpp.store.format.documents import canonical_json
from lpp.store.format.plan import parse_plan
from lpp.store.format.tables import encode_table
from lpp.store.runs.verify import verify_root
from lpp.store.scores.scores import verify_scores
from tests.store.make_golden import golden_scores, golden_shard

SPEC = Path(__file__).parents[2] / "store" / "SPEC.md"


# A store of an older release in the hands of this one.


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A copy of an older store, to write into."""
    return shutil.copytree(GOLDEN / "v1", tmp_path / "v1")


def everything(root: Path) -> dict[str, Any]:
    """Every value of the store's run; the optional column aside, which v1 lacks."""
    run = only_run(root)
    rows = {s: [b.values.tolist() for b in run.blocks(s, dtype="stored")] for s in run.sites}
    tokens = run.tokens().to_table().drop_columns(["varentropy"]).to_pydict()
    quarantine = run.quarantine.to_pydict()
    return {
        "plan": run.plan.document,
        "prompts": run.prompts().to_pydict(),
        **{"rows": rows, "tokens": tokens, "quarantine": quarantine},
    }


def write_again(root: Path, index: int, **options: Any) -> Run:
    """Compute shard `index` of the store's run again, and write it with this release."""
    run = only_run(root)
    writer = RunWriter(root, run.plan, run.prompts(), **options)
    writer.write_shard(index, *golden_shard(index))
    assert writer.written == {index}
    return only_run(root)


def test_an_older_run_is_resumed(older: Path) -> None:
    run = only_run(older)
    writer = RunWriter(older, run.plan, run.prompts())
    assert writer.uncommitted([0, 1]) == []


@pytest.mark.parametrize("index", [0, 1])
def test_an_older_run_is_extended(older: Path, index: int) -> None:
    before, version = everything(older), only_run(older).commit.format
    shutil.rmtree(older / "runs" / only_run(older).id / "shards" / f"{index:05d}")
    assert [problem.where for problem in only_run(older).verify()] == [
        f"shards/{index:05d}/COMMIT.json"
    ]
    run = write_again(older, index)
    assert run.verify() == []
    assert everything(older) == before
    expected = [version, version, version]
    expected[1 + index] = 3
    assert [record.format for record in records_of(run)] == expected


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", ["hidden.zarr/final/c/0/0", "tokens.arrow", "COMMIT.json"])
def test_a_damaged_shard_of_an_older_run_is_repaired(older: Path, index: int, name: str) -> None:
    before = everything(older)
    shard = older / "runs" / only_run(older).id / "shards" / f"{index:05d}"
    data = bytearray((shard / name).read_bytes())
    data[len(data) // 2] ^= 1
    (shard / name).write_bytes(data)
    assert [problem.where for problem in only_run(older).verify()] == [
        f"shards/{shard.name}/{name}"
    ]
    run = write_again(older, index, replacing=[index])
    assert run.verify() == []
    assert everything(older) == before
    base = run.shards[index].record.base
    assert {path.name for path in shard.iterdir()} == {"COMMIT.json", base}  # the old objects went


def test_an_older_store_takes_new_runs_and_scores(older: Path) -> None:
    before = everything(older)
    golden = only_run(older)
    plan = replace(golden.plan, stored_dtype="float16")
    RunWriter(older, plan, golden.prompts())
    assert add_scores(older, "golden board", golden_scores(), {"board.csv": b"1"})
    runs = open_store(older).runs
    assert runs[plan.run_id].commit.format == 3
    shutil.rmtree(older / "runs" / plan.run_id)
    assert everything(older) == before
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
