"""Records sealed anew over whatever lies there: what a careless or hostile writer would make."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lpp.store.format.documents import pretty_json
from lpp.store.format.record import self_checksum
from lpp.store.objects.disk import describe

COMMIT = "COMMIT.json"


def objects_of(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file of a run (without its shards) or a shard."""
    found = {}
    for path in sorted(directory.rglob("*")):
        key = path.relative_to(directory).as_posix()
        if path.is_file() and key != COMMIT and not key.startswith("shards/"):
            found[key] = vars(describe(path))
    return found


def reseal(directory: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Write the record of `directory` again so that it fits the files there, then `change` it."""
    record = json.loads((directory / COMMIT).read_bytes())
    record["objects"] = objects_of(directory)
    change(record)
    record["self_xxh3_128"] = self_checksum(record)
    (directory / COMMIT).write_bytes(pretty_json(record))
