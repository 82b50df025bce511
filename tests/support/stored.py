"""What a store holds, whatever its writers called their attempts."""

import json
from pathlib import Path
from typing import Any

from on_disk import on_disk

from lpp.store.format.commit_record import ATTEMPT, seal_of
from lpp.store.format.documents import canonical_json, stored_json
from lpp.store.format.keys import COMMIT_KEY
from lpp.store.objects.place import Place


def stored_objects(root: Place) -> dict[str, bytes]:
    """Every file below the directory `root` of a store, by its place.

    A committed object bears its place without the attempt that it lies in, and a record is what it
    says beside attempt and seal: so two captures of one plan are equal. Everything else that lies
    there bears its own name, lost attempts and altered records too.
    """
    directory = on_disk(root)
    files = {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    renamed, records = {}, {}
    for key, data in files.items():
        if key.rpartition("/")[2] != COMMIT_KEY or (document := _intact(data)) is None:
            continue
        start = key.removesuffix(COMMIT_KEY)
        base = f"{start}{document['base']}/" if "base" in document else start
        for of_record in document["objects"]:
            if base + of_record in files:
                renamed[base + of_record] = start + of_record
        said = {k: v for k, v in document.items() if k not in ("base", "self_xxh3_128")}
        records[key] = canonical_json(said)
    found = {renamed.get(key, key): records.get(key, data) for key, data in files.items()}
    assert len(found) == len(files), "two files of one place"
    return found


def left_behind(root: Place) -> list[str]:
    """Files of writers below `root` that do not count: of lost attempts, signs, staged ones."""
    return [
        key
        for key in stored_objects(root)
        if any(part.startswith(".") or ATTEMPT.fullmatch(part) for part in key.split("/"))
    ]


def object_path(directory: Place, key: str) -> Path:
    """Where a committed run, shard or source in `directory` has its object `key`."""
    path = on_disk(directory)
    record: dict[str, Any] = json.loads((path / COMMIT_KEY).read_bytes())
    return path / str(record.get("base", "")) / key


def _intact(data: bytes) -> dict[str, Any] | None:
    """The record in `data`, or None where it is damaged."""
    try:
        document: dict[str, Any] = json.loads(data)
        stored = stored_json(document, document["format"])
    except (ValueError, KeyError, TypeError):
        return None
    intact = document["self_xxh3_128"] == seal_of(document) and data == stored
    return document if intact else None


def objects_dir(directory: Place) -> Path:
    """Where a committed run, shard or source in `directory` has its objects."""
    return object_path(directory, "")
