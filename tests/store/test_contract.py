"""The format as SPEC.md states it, read and written without the code under test."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
import zarr
from on_disk import on_disk
from small_capture import Capture
from zarr.codecs import BloscCodec
from zarr_arrays import array_in, dimension_names

from lpp.store import open_store

COLUMNS = {
    "prompts": {
        "prompt_id": "int32",
        "source_row": "int64",
        "token_ids": "list<item: int32>",
        "n_tokens": "int32",
        "truncated": "bool",
        "sha256": "string",
    },
    "tokens": {
        "prompt_id": "int32",
        "position": "int32",
        "token_id": "int32",
        "entropy": "float",
        "log_z": "float",
        "max_logprob": "float",
        "margin": "float",
        "next_logprob": "float",
        "next_rank": "int32",
        "top1_id": "int32",
        "varentropy": "float",
    },
}


def canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


BASE = "00112233445566ff"
"""Name of every attempt of a foreign writer."""


def read_arrow(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def check_commit(directory: Path) -> dict[str, Any]:
    """The record of `directory`, after comparing every byte under it."""
    data = (directory / "COMMIT.json").read_bytes()
    record: dict[str, Any] = json.loads(data)
    assert data == canonical(record)
    unsealed = {k: v for k, v in record.items() if k != "self_xxh3_128"}
    assert record["self_xxh3_128"] == xxhash.xxh3_128(canonical(unsealed)).hexdigest()
    assert record["format"] == 3
    for key, entry in record["objects"].items():
        stored = (directory / record["base"] / key).read_bytes()
        assert entry.pop("chunks", []) == chunks_of(key, stored)
        assert entry == described(stored)
    return record


def described(stored: bytes) -> dict[str, Any]:
    return {"bytes": len(stored), "xxh3_128": xxhash.xxh3_128(stored).hexdigest()}


def chunks_of(key: str, stored: bytes) -> list[dict[str, Any]]:
    """Of an array: its chunks from the first byte on; one here, before an index of 20 bytes."""
    return [described(stored[:-20])] if key.endswith("/c/0/0") else []


def test_written_store_is_what_the_spec_says(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    assert (root / "lpp.json").read_bytes() == b'{"format":"lpp-store","version":1}'
    path = on_disk(run.path)
    home = path / json.loads((path / "COMMIT.json").read_bytes())["base"]
    plan = json.loads((home / "plan.json").read_bytes())
    assert (home / "plan.json").read_bytes() == canonical(plan)
    plan_hash = hashlib.sha256(canonical(plan)).hexdigest()
    assert [p.name for p in (root / "runs").iterdir()] == [f"tiny-0-1b-{plan_hash[:8]}"]
    record = check_commit(path)
    assert set(record["objects"]) == {"plan.json", "prompts.arrow"}
    assert (record["plan"], record["shard"], record["rows"]) == (plan_hash, None, 0)

    prompts = read_arrow(home / "prompts.arrow")
    assert {f.name: str(f.type) for f in prompts.schema} == COLUMNS["prompts"]
    assert prompts.equals(capture.prompts)
    digests = b""
    for row in prompts.to_pylist():
        digest = hashlib.sha256(np.array(row["token_ids"], "<i4").tobytes())
        assert row["sha256"] == digest.hexdigest()
        digests += digest.digest()
    assert plan["prompts"]["sha256"] == hashlib.sha256(digests).hexdigest()

    names = sorted(p.name for p in (path / "shards").iterdir())
    assert names == ["00000", "00001", "00002"]
    for index, name in enumerate(names):
        check_shard(capture, path / "shards" / name, index, plan_hash)


def check_shard(capture: Capture, shard: Path, index: int, plan_hash: str) -> None:
    hidden, tokens = capture.shard(index)
    record = check_commit(shard)
    assert (record["plan"], record["shard"]) == (plan_hash, index)
    assert record["rows"] == tokens.num_rows
    assert sorted(p.name for p in shard.iterdir()) == sorted([record["base"], "COMMIT.json"])
    shard = shard / record["base"]
    lying = {p.relative_to(shard).as_posix() for p in shard.rglob("*") if p.is_file()}
    assert lying == set(record["objects"])
    stored = read_arrow(shard / "tokens.arrow")
    assert {f.name: str(f.type) for f in stored.schema} == COLUMNS["tokens"]
    assert stored.equals(tokens)
    group = zarr.open_group(str(shard / "hidden.zarr"), mode="r", zarr_format=3)
    assert sorted(group) == sorted(hidden)
    for spec in capture.plan.sites:
        array = array_in(group, spec.name)
        assert np.array_equal(np.asarray(array[:]), hidden[spec.name])
        assert array.attrs.asdict() == {
            "lpp": {"site": spec.name, "dtype": "bfloat16", "convention": spec.convention}
        }
        assert len(list((shard / "hidden.zarr" / spec.name / "c").rglob("*"))) == 2  # 0/, 0/0
        assert dimension_names(array) == ("token", "feature")
        check_codecs(json.loads((shard / "hidden.zarr" / spec.name / "zarr.json").read_bytes()))


def check_codecs(metadata: dict[str, Any]) -> None:
    (sharding,) = metadata["codecs"]
    assert sharding["name"] == "sharding_indexed"
    endian, blosc = sharding["configuration"]["codecs"]
    assert endian == {"name": "bytes", "configuration": {"endian": "little"}}
    assert blosc["configuration"] == {
        "typesize": 2,
        "cname": "zstd",
        "clevel": 1,
        "shuffle": "shuffle",
        "blocksize": 2 << 20,
    }


def write_foreign(capture: Capture, root: Path, **extra: Any) -> str:
    """The same capture, written by other code from the spec alone; other codecs are allowed."""
    plan = capture.plan.document | extra.get("plan", {})
    plan_hash = hashlib.sha256(canonical(plan)).hexdigest()
    run_id = f"tiny-0-1b-{plan_hash[:8]}"
    run = root / "runs" / run_id
    (run / BASE).mkdir(parents=True)
    (root / "lpp.json").write_bytes(canonical({"format": "lpp-store", "version": 1}))
    (run / BASE / "plan.json").write_bytes(canonical(plan))
    write_arrow(run / BASE / "prompts.arrow", capture.prompts)
    commit_foreign(run, plan_hash, None, 0, extra.get("commit", {}))
    for index in range(capture.plan.n_shards):
        hidden, tokens = capture.shard(index)
        shard = run / "shards" / f"{index:05d}"
        (shard / BASE).mkdir(parents=True)
        for name, column in extra.get("columns", {}).items():
            tokens = tokens.append_column(name, pa.array([column] * tokens.num_rows))
        write_arrow(shard / BASE / "tokens.arrow", tokens)
        group = zarr.create_group(str(shard / BASE / "hidden.zarr"), zarr_format=3)
        for site, rows in hidden.items():
            array = group.create_array(
                site,
                shape=rows.shape,
                dtype=rows.dtype,
                chunks=(2, 4),
                shards=(-(-len(rows) // 2) * 2, 4),
                compressors=BloscCodec(),
            )
            array[:] = rows
        commit_foreign(shard, plan_hash, index, tokens.num_rows, extra.get("commit", {}))
    return run_id


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def commit_foreign(
    directory: Path, plan_hash: str, shard: int | None, rows: int, extra: dict[str, Any]
) -> None:
    record: dict[str, Any] = {
        "format": 3,
        "base": BASE,
        "plan": plan_hash,
        "shard": shard,
        "rows": rows,
        "objects": {
            path.relative_to(directory / BASE).as_posix(): foreign_entry(path.read_bytes(), path)
            for path in (directory / BASE).rglob("*")
            if path.is_file()
        },
    } | extra
    record["self_xxh3_128"] = xxhash.xxh3_128(canonical(record)).hexdigest()
    (directory / "COMMIT.json").write_bytes(canonical(record))


def foreign_entry(stored: bytes, path: Path) -> dict[str, Any]:
    """The entry of an object; an array's has its chunks, two rows each, by the index at its end."""
    entry = described(stored)
    if path.as_posix().endswith("/c/0/0"):
        rows = json.loads((path.parents[2] / "zarr.json").read_bytes())["shape"][0]
        index = stored[-16 * -(-rows // 2) - 4 : -4]
        places = struct.iter_unpack("<QQ", index)
        entry["chunks"] = [described(stored[start : start + size]) for start, size in places]
    return entry


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {
            "plan": {"later_field": {"deep": [1, "é", None]}},
            "commit": {"later_field": 7},
            "columns": {"later_column": 0.5},
        },
    ],
    ids=["plain", "with fields and columns of a later release"],
)
def test_store_of_other_code_is_read(capture: Capture, root: Path, extra: dict[str, Any]) -> None:
    run_id = write_foreign(capture, root, **extra)
    run = open_store(root).runs[run_id]
    assert run.verify() == []
    assert run.missing_shards == ()
    assert run.prompts().equals(capture.prompts)
    assert run.tokens().to_table().equals(capture.tokens)
    for site, rows in capture.hidden.items():
        values = np.concatenate(list(run.hidden(site)))
        assert np.array_equal(values.view(np.uint32), rows.astype(np.uint32) << 16)
    assert ("later_field" in run.plan.document) == bool(extra)


def test_newer_format_of_a_run_or_shard_is_refused_and_never_written_over(
    capture: Capture, root: Path
) -> None:
    from lpp.store import RunWriter
    from lpp.store.errors import ErrorKind, FormatError

    run_id = write_foreign(capture, root, commit={"format": 6})
    run = open_store(root).runs[run_id]
    with pytest.raises(FormatError, match="store format 6, this release reads up to 5") as caught:
        _ = run.plan
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
    commit_foreign_run_only(on_disk(run.path))
    writer = RunWriter(root, capture.plan, capture.prompts)
    before = sorted(on_disk(run.path).rglob("*"))
    with pytest.raises(FormatError, match="format 6"):
        writer.write_shard(1, *capture.shard(1))
    assert sorted(on_disk(run.path).rglob("*")) == before


def commit_foreign_run_only(run: Path) -> None:
    """Make the run's own record format 3 again; its shards stay newer."""
    record = json.loads((run / "COMMIT.json").read_bytes()) | {"format": 3}
    del record["self_xxh3_128"]
    record["self_xxh3_128"] = xxhash.xxh3_128(canonical(record)).hexdigest()
    (run / "COMMIT.json").write_bytes(canonical(record))
