"""COMMIT.json: no altered byte goes unnoticed."""

import json
from typing import Any

import pytest

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import (
    ChunkRecord,
    CommitRecord,
    ObjectRecord,
    parse_record,
    record_bytes,
    seal_of,
    sealed,
)
from lpp.store.format.documents import canonical_json

CHUNKS = (ChunkRecord(bytes=3, xxh3_128="cd" * 16), ChunkRecord(bytes=2, xxh3_128="ef" * 16))
OBJECTS = {
    "tokens.arrow": ObjectRecord(bytes=5, xxh3_128="ab" * 16),
    "hidden.zarr/final/c/0/0": ObjectRecord(bytes=25, xxh3_128="12" * 16, chunks=CHUNKS),
}
RECORD = CommitRecord(format=3, plan="c0ffee", shard=3, rows=21, objects=OBJECTS, base="a1" * 8)


def parsed(data: bytes) -> CommitRecord:
    return parse_record(CommitRecord, data, "here/COMMIT.json")


def refusal(data: bytes) -> FormatError:
    with pytest.raises(FormatError, match=r"^here/COMMIT\.json: ") as caught:
        parsed(data)
    return caught.value


def test_record_round_trip() -> None:
    assert parsed(record_bytes(RECORD)) == sealed(RECORD)
    assert len(sealed(RECORD).self_xxh3_128) == 32


def test_altered_byte_at_every_offset_is_noticed() -> None:
    data = record_bytes(RECORD)
    for offset in range(len(data)):
        # bit flips; a digit and a space, which may leave valid JSON behind
        for byte in {data[offset] ^ 1, data[offset] ^ 0x80, ord("9"), ord(" ")} - {data[offset]}:
            error = refusal(data[:offset] + bytes([byte]) + data[offset + 1 :])
            assert error.kind is ErrorKind.CORRUPT


def test_truncation_and_additions_are_noticed() -> None:
    data = record_bytes(RECORD)
    for altered in [*(data[:n] for n in range(len(data))), data + b" ", b" " + data, data + data]:
        refusal(altered)


def test_sealed_record_of_the_wrong_shape_names_its_fields() -> None:
    document: dict[str, Any] = {"plan": 1, "shard": "0", "rows": 2, "objects": {"a": {}}}
    document["self_xxh3_128"] = seal_of(document)
    message = str(refusal(canonical_json(document)))
    for part in ("plan should be str", "shard should be int", "objects.a.bytes is missing"):
        assert part in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base": "../../elsewhere"}, "base is no name of an attempt"),
        ({"format": 2}, "format 2"),
        ({"rows": -1}, "-1 rows"),
        ({"objects": {"../x": {"bytes": 1, "xxh3_128": ""}}}, "has a part '..'"),
        ({"objects": {"x": {"bytes": -1, "xxh3_128": ""}}}, "x: -1 bytes"),
        (
            {"objects": {"x": {"bytes": 1, "xxh3_128": "", "chunks": [vars(CHUNKS[0])]}}},
            "x: chunks that do not fit into it",
        ),
        (
            {
                "objects": {
                    "x": {"bytes": 9, "xxh3_128": "", "chunks": [vars(CHUNKS[0]) | {"bytes": 0}]}
                }
            },
            "x: chunks that do not fit into it",
        ),
    ],
)
def test_sealed_record_that_leads_elsewhere_is_refused(change: dict[str, Any], says: str) -> None:
    document = json.loads(record_bytes(RECORD)) | change
    document["self_xxh3_128"] = seal_of(document)
    error = refusal(canonical_json(document))
    assert says in str(error)
    assert error.kind is ErrorKind.CORRUPT


def test_record_of_a_newer_release_is_told_as_that() -> None:
    document = json.loads(record_bytes(RECORD)) | {"format": 6, "objects": "elsewhere"}
    document["self_xxh3_128"] = seal_of(document)
    error = refusal(canonical_json(document))
    assert error.kind is ErrorKind.UNSUPPORTED_VERSION
    assert "store format 6, this release reads up to 5" in str(error)


def test_record_is_canonical_json() -> None:
    text = record_bytes(RECORD).decode()
    names = ["base", "format", "objects", "plan", "rows", "self_xxh3_128", "shard"]
    assert list(json.loads(text)) == names
    assert " " not in text
