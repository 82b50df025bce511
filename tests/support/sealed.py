"""Records sealed again over changed files: what a careless or hostile writer would produce."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from on_disk import on_disk

from lpp.store.arrays.reader import BytesSource
from lpp.store.format.commit_record import seal_of
from lpp.store.format.documents import canonical_json, to_document
from lpp.store.objects.checks import PIECE_BYTES, describe
from lpp.store.objects.place import Place

COMMIT = "COMMIT.json"


def objects_of(
    directory: Path, before: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, dict[str, Any]]:
    """A record's entries for the files in `directory`; for a run without those of its shards.

    before: its earlier entries. An array has as many chunks as there, with the same sizes, as a
    writer with other rows and equal chunks would record.
    """
    found = {}
    for path in sorted(directory.rglob("*")):
        key = path.relative_to(directory).as_posix()
        if path.is_file() and key != COMMIT and not key.startswith("shards/"):
            sizes = [chunk["bytes"] for chunk in before.get(key, {}).get("chunks", ())]
            source = BytesSource(path.read_bytes())
            found[key] = to_document(describe(source, PIECE_BYTES, sizes))
    return found


def seal(document: Mapping[str, Any]) -> bytes:
    """A record with the content of `document`, whatever that is, and a correct seal."""
    return canonical_json({**document, "self_xxh3_128": seal_of(document)})


def reseal(place: Place, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Rewrite the record of `place` to fit the files there, then `change` it."""
    directory = on_disk(place)
    record = json.loads((directory / COMMIT).read_bytes())
    record["objects"] = objects_of(directory / record["base"], record["objects"])
    change(record)
    (directory / COMMIT).write_bytes(seal(record))
