"""The content of a store, whatever the names of its writers' attempts."""

import json
from pathlib import Path
from typing import Any

from on_disk import on_disk

from lpp.store import Run, open_store
from lpp.store.format.commit_record import ATTEMPT, seal_of
from lpp.store.format.documents import canonical_json
from lpp.store.format.keys import COMMIT_KEY
from lpp.store.objects.place import Place, Url


def stored_objects(root: Place) -> dict[str, bytes]:
    """Every file below the directory `root` of a store, by path.

    A committed object has its path without the attempt's name, and a record its content without
    attempt and seal: so two captures of one plan are equal. Every other file has its own path,
    including lost attempts and altered records.
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
        base = f"{start}{document['base']}/"
        for of_record in document["objects"]:
            if base + of_record in files:
                renamed[base + of_record] = start + of_record
        said = {k: v for k, v in document.items() if k not in ("base", "self_xxh3_128")}
        records[key] = canonical_json(said)
    found = {renamed.get(key, key): records.get(key, data) for key, data in files.items()}
    assert len(found) == len(files), "two files of one place"
    return found


def left_behind(root: Place) -> list[str]:
    """Uncommitted files of writers below `root`: lost attempts, heartbeats, staged files."""
    return [
        key
        for key in stored_objects(root)
        if any(part.startswith(".") or ATTEMPT.fullmatch(part) for part in key.split("/"))
    ]


def object_path(directory: Place, key: str) -> Path:
    """Path of the object `key` of a committed run, shard or source in `directory`."""
    path = on_disk(directory)
    record: dict[str, Any] = json.loads((path / COMMIT_KEY).read_bytes())
    return path / str(record["base"]) / key


def _intact(data: bytes) -> dict[str, Any] | None:
    """The record in `data`; None if it is damaged."""
    try:
        document: dict[str, Any] = json.loads(data)
        stored = canonical_json(document)
    except (ValueError, KeyError, TypeError):
        return None
    intact = document["self_xxh3_128"] == seal_of(document) and data == stored
    return document if intact else None


def objects_dir(directory: Place) -> Path:
    """Folder of the objects of a committed run, shard or source in `directory`."""
    return object_path(directory, "")


def only_run(store: Url) -> Run:
    """The run of a store that has one."""
    (run,) = open_store(store).runs.values()
    return run
