"""Nothing in a store reaches outside it, runs code, or takes more memory than it should.

Every store here is consistent: its checksums fit, as those of a hostile writer would.
"""

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pyarrow as pa
import pytest
from on_disk import on_disk
from sealed import reseal
from small_capture import Capture
from stored import object_path, objects_dir

from lpp.store import Run, open_store
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.arrow_limits import check_declared, declared
from lpp.store.format.documents import load_json
from lpp.store.format.keys import key_problem
from lpp.store.format.tables import TOKENS_SCHEMA, encode_table, read_table
from lpp.store.objects.locate import objects_at

SHARD = "shards/00000"


@pytest.fixture
def run(capture: Capture, root: Path) -> Run:
    found: Run = capture.write(root)
    return open_store(root).runs[found.id]


def block(run: Run) -> Path:
    """The array of one site of one shard."""
    return object_path(run.path / SHARD, "hidden.zarr/block.1")


def reopened(run: Run) -> Run:
    return open_store(run.path.parent.parent).runs[run.id]


def read_all(run: Run) -> None:
    """What every reader of a run does."""
    run.prompts()
    run.tokens().to_table()
    for site in run.sites:
        list(run.hidden(site))


def refused(run: Run, match: str, *, by_readers: bool = True) -> None:
    """Readers say CORRUPT and where; verify says it as well.

    by_readers: not for the index of an array's chunks, which readers of format 3 do not need.
    """
    assert [p for p in reopened(run).verify() if re.search(match, p.what)]
    if not by_readers:
        read_all(reopened(run))
        return
    with pytest.raises(FormatError, match=match) as caught:
        read_all(reopened(run))
    assert caught.value.kind is ErrorKind.CORRUPT


BAD_KEYS = (
    "../lpp.json",
    "/etc/passwd",
    "hidden.zarr/../../COMMIT.json",
    "a//b",
    "./a",
    "a/.",
    "",
    "a\\b",
    "a\0b",
    "a\nb",
    ".hidden",
    "x" * 256,
    "x/" * 600 + "x",
    "\ud800",
)


@pytest.mark.parametrize("key", BAD_KEYS)
def test_bad_names_are_bad(key: str) -> None:
    assert key_problem(key)


@pytest.mark.parametrize("key", [k for k in BAD_KEYS if k != "\ud800"])
def test_no_record_lists_what_lies_elsewhere(run: Run, key: str) -> None:
    def change(record: dict[str, Any]) -> None:
        record["objects"][key] = {"bytes": 1, "xxh3_128": "0" * 32}

    reseal(run.path / SHARD, change)
    again = reopened(run)
    assert again.missing_shards == (0,)
    assert [p.where for p in again.verify()] == [f"{SHARD}/COMMIT.json"]
    reseal(run.path, change)
    with pytest.raises(FormatError, match="take nothing from this store"):
        _ = reopened(run).plan


@pytest.mark.parametrize(
    "key",
    ["tokens.arrow", *(f"hidden.zarr/block.1{p}" for p in ("/c/0/0", "", "/c")), SHARD, "shards"],
)
def test_links_are_not_followed(run: Run, tmp_path: Path, key: str) -> None:
    outside = tmp_path / "outside"
    home = on_disk(run.path) if key.startswith("shards") else objects_dir(run.path / SHARD)
    path = home / key
    path.rename(outside)
    path.symlink_to(outside)
    problems = reopened(run).verify()
    assert problems
    assert any("symbolic link" in p.what or "not part of" in p.what for p in problems)
    if key.startswith("shards"):
        missing = (0,) if key == SHARD else (0, 1, 2)
        assert reopened(run).missing_shards == tuple(reopened(run).left_out) == missing
    else:
        with pytest.raises(FormatError, match="a symbolic link"):
            read_all(reopened(run))


@pytest.mark.parametrize("whole", ["run", "runs"])
def test_a_linked_run_is_not_followed(run: Run, tmp_path: Path, whole: str) -> None:
    path = on_disk(run.path if whole == "run" else run.path.parent)
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(FormatError, match="a symbolic link"):
        read_all(reopened(run))


def test_a_pipe_keeps_nobody_waiting(run: Run) -> None:
    home = objects_dir(run.path)
    for path in (
        object_path(run.path / SHARD, "tokens.arrow"),
        home / "plan.json",
        on_disk(run.path) / "COMMIT.json",
    ):
        kept = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert any("not a file" in p.what for p in run.verify())
        with pytest.raises(FormatError, match="not a file"):
            read_all(Run(run.path))
        path.unlink()
        path.write_bytes(kept)


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "document").write_bytes(b"x" * 100)
    objects = objects_at(tmp_path)
    assert len(objects.get("document", 100)) == 100
    with pytest.raises(FormatError, match="more than 99 bytes"):
        objects.get("document", 99)
    with pytest.raises(FormatError, match="not a file"):
        objects_at(tmp_path.parent).get(tmp_path.name, 100)
    with pytest.raises(FileNotFoundError):
        objects.get("a/b", 100)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000 + "]" * 100_000, "recursion|nested"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("9" * 5000, "digits"),
        (str(2**53), "an integer beyond 2\\^53"),
        ("1.5", "no integer"),
        ("1e3", "no integer"),
        ("NaN", "JSON compliant"),
        ('"\\ud800"', "surrogates"),
    ],
)
def test_documents_out_of_bounds_are_refused(text: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        load_json(text.encode(), "here")


Change = Callable[[dict[str, Any]], None]


def _set(*place: str | int, to: Any) -> Change:
    def change(document: Any) -> None:
        for part in place[:-1]:
            document = document[part]
        document[place[-1]] = to

    return change


SHARDING = ("codecs", 0, "configuration")
HOSTILE: dict[str, tuple[Change, str]] = {
    "huge shape": (_set("shape", to=[1 << 50, 1 << 50]), "shape"),
    "other shape": (_set("shape", to=[13, 4]), "shape"),
    "objects": (_set("data_type", to="object"), "data_type"),
    "strings": (_set("data_type", to="string"), "data_type"),
    "other width of a value": (_set("data_type", to="float64"), "data_type"),
    "unknown codec": (_set(*SHARDING, "codecs", 1, "name", to="numcodecs.pickle"), "codecs"),
    "gzip": (
        _set(*SHARDING, "codecs", 1, to={"name": "gzip", "configuration": {"level": 1}}),
        "codecs",
    ),
    "no codecs": (_set("codecs", to=[]), "codecs"),
    "big endian": (_set(*SHARDING, "codecs", 0, "configuration", "endian", to="big"), "codecs"),
    "chunks of nothing": (_set(*SHARDING, "chunk_shape", to=[0, 4]), "rows"),
    "chunks of more than fits": (_set(*SHARDING, "chunk_shape", to=[1 << 40, 4]), "most"),
    "chunks of text": (_set(*SHARDING, "chunk_shape", to=["1", 4]), "rows"),
    "objects of more chunks": (
        _set("chunk_grid", "configuration", "chunk_shape", to=[12 << 40, 4]),
        "an object of",
    ),
    "chunks across": (_set(*SHARDING, "chunk_shape", to=[12, 2]), "columns"),
    "another place": (_set("chunk_key_encoding", to={"name": "v2"}), "chunk_key_encoding"),
    "transformers": (_set("storage_transformers", to=[{"name": "x"}]), "transformers"),
    "another site": (_set("attributes", "lpp", "site", to="final"), "attributes.lpp"),
    "more": (_set("extension", to={"name": "x"}), "extension"),
    "index elsewhere": (_set(*SHARDING, "index_location", to="start"), "index"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_array_metadata_is_refused(run: Run, name: str) -> None:
    change, what = HOSTILE[name]
    path = block(run) / "zarr.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(json.dumps(document).encode())
    reseal(run.path / SHARD)
    refused(run, rf"hidden.zarr/block.1(/c/0/0)?: not the array that was committed .*{what}")


def _bomb(data: bytearray) -> None:
    struct.pack_into("<I", data, 4, 1 << 30)  # Blosc: bytes it unpacks to


def _longer(data: bytearray) -> None:
    struct.pack_into("<Q", data, len(data) - 12, 1 << 40)
    _checked(data)


def _zeros(data: bytearray) -> None:
    data[:16] = b"\0" * 16


def _absent(data: bytearray) -> None:
    data[-20:-4] = b"\xff" * 16
    _checked(data)


def _checked(data: bytearray) -> None:
    """The checksum of an index that holds what it holds."""
    data[-4:] = struct.pack("<I", google_crc32c.value(bytes(data[-20:-4])))


@pytest.mark.parametrize(
    ("change", "what", "of_chunk"),
    [
        (_bomb, "unpacks to 1073741824, should be 96", True),
        (_longer, "outside the object", False),
        (_absent, "missing", False),
        (lambda data: data.clear(), "1 chunks", True),
        (_zeros, "unpacks to 0, should be 96", True),
    ],
)
def test_hostile_chunks_are_refused(
    run: Run, change: Callable[[bytearray], None], what: str, of_chunk: bool
) -> None:
    path = block(run) / "c/0/0"
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    reseal(run.path / SHARD)
    refused(run, f"block.1/c/0/0: .*{what}", by_readers=of_chunk)


def test_an_array_without_its_object_is_not_zeros(run: Run) -> None:
    shutil.rmtree(block(run) / "c")
    reseal(run.path / SHARD)
    refused(run, "block.1/c/0/0: missing since it was committed")


def test_an_index_with_another_checksum_is_refused(run: Run) -> None:
    path = block(run) / "c/0/0"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    reseal(run.path / SHARD)
    match = "block.1/c/0/0: not the array that was committed .*checksum of it"
    refused(run, match, by_readers=False)


def bomb(rows: int, **columns: Any) -> bytes:
    """A table of `rows` zeros that zstd packs to almost nothing."""
    names = [f for f in TOKENS_SCHEMA if f.name not in columns]
    zeros = [pa.array([0] * rows, f.type) for f in names]
    table = pa.Table.from_arrays(zeros, schema=pa.schema(names))
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return encode_table(table)


def test_a_table_that_unpacks_to_more_than_its_rows_may_is_refused(run: Run) -> None:
    path = object_path(run.path / SHARD, "tokens.arrow")
    path.write_bytes(bomb(12, later=["x" * (1 << 20)] * 12))
    assert path.stat().st_size < 4096
    reseal(run.path / SHARD)
    refused(run, "not the table it should be .*unpack to .*are the most")
    path.write_bytes(bomb(12_000))
    reseal(run.path / SHARD)
    refused(run, "not the table it should be .*12000 rows, 12 were committed")


@pytest.mark.slow
def test_a_table_packed_too_well_is_refused_whatever_its_rows(tmp_path: Path) -> None:
    data = bomb(1_600_000)
    found = declared(memoryview(data))
    assert found.rows == 1_600_000
    assert found.unpacked > 256 * len(data)
    with pytest.raises(ValueError, match="are the most"):
        check_declared(memoryview(data), rows=1_600_000, most=1 << 40)
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(FormatError, match="are the most"):
        read_table(tmp_path / "t", TOKENS_SCHEMA)


def test_offsets_that_point_outside_a_table_are_refused(run: Run) -> None:
    path = object_path(run.path, "prompts.arrow")
    sink = pa.BufferOutputStream()
    table = run.prompts()
    with pa.ipc.new_file(sink, table.schema) as writer:  # not compressed
        writer.write_table(table)
    good = struct.pack("<5i", *range(0, 5 * 64, 64))  # where each digest begins
    data = sink.getvalue().to_pybytes()
    assert data.count(good) == 1
    path.write_bytes(data.replace(good, good[:-4] + struct.pack("<i", 1 << 30)))
    reseal(run.path)
    refused(run, "prompts.arrow: not the table it should be")


def test_dictionaries_are_not_unpacked() -> None:
    table = pa.table({"a": pa.array(["x", "y"]).dictionary_encode()})
    with pytest.raises(ValueError, match="dictionaries"):
        declared(memoryview(encode_table(table)))


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"ARROW1" * 9, b"x" * 4000, b"\0" * 4000])
def test_what_is_no_arrow_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"Arrow file|length"):
        declared(memoryview(data))
