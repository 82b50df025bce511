"""COMMIT.json: no altered byte goes unnoticed."""

import json
from pathlib import Path
from typing import Any

import pytest

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.record import CommitRecord, read_commit, write_commit
from lpp.store.objects.disk import ObjectRecord

OBJECTS = {"tokens.arrow": ObjectRecord(bytes=5, xxh3_128="ab" * 16)}
RECORD = CommitRecord(plan="c0ffee", shard=3, rows=21, objects=OBJECTS)


def test_record_round_trip(tmp_path: Path) -> None:
    write_commit(tmp_path, RECORD)
    assert read_commit(tmp_path) == RECORD.sealed()
    assert len(RECORD.sealed().self_xxh3_128) == 32
    with pytest.raises(FileExistsError):
        write_commit(tmp_path, RECORD)


def test_altered_byte_at_every_offset_is_noticed(tmp_path: Path) -> None:
    write_commit(tmp_path, RECORD)
    path = tmp_path / "COMMIT.json"
    data = path.read_bytes()
    for offset in range(len(data)):
        # bit flips; a digit and a space, which may leave valid JSON behind
        for byte in {data[offset] ^ 1, data[offset] ^ 0x80, ord("9"), ord(" ")} - {data[offset]}:
            path.write_bytes(data[:offset] + bytes([byte]) + data[offset + 1 :])
            with pytest.raises(FormatError, match=r"COMMIT.json: ") as caught:
                read_commit(tmp_path)
            assert caught.value.kind is ErrorKind.CORRUPT


def test_truncation_and_additions_are_noticed(tmp_path: Path) -> None:
    write_commit(tmp_path, RECORD)
    path = tmp_path / "COMMIT.json"
    data = path.read_bytes()
    for altered in [*(data[:n] for n in range(len(data))), data + b" ", b" " + data, data + data]:
        path.write_bytes(altered)
        with pytest.raises(FormatError, match=r"COMMIT.json: "):
            read_commit(tmp_path)


def test_sealed_record_of_the_wrong_shape_names_its_fields(tmp_path: Path) -> None:
    from lpp.store.format.documents import pretty_json
    from lpp.store.format.record import self_checksum

    document: dict[str, Any] = {"plan": 1, "shard": "0", "rows": 2, "objects": {"a": {}}}
    document["self_xxh3_128"] = self_checksum(document)
    (tmp_path / "COMMIT.json").write_bytes(pretty_json(document))
    with pytest.raises(FormatError) as caught:
        read_commit(tmp_path)
    for part in ("plan should be str", "shard should be int", "objects.a.bytes is missing"):
        assert part in str(caught.value)


def test_missing_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_commit(tmp_path)


def test_record_holds_sorted_plain_json(tmp_path: Path) -> None:
    write_commit(tmp_path, RECORD)
    text = (tmp_path / "COMMIT.json").read_text()
    assert list(json.loads(text)) == ["format", "objects", "plan", "rows", "self_xxh3_128", "shard"]
