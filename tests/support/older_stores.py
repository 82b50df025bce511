"""Stores as earlier releases wrote them, in formats 1 and 2, converted from this release's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from on_disk import on_disk
from sealed import reseal
from stored import object_path

from lpp.store.format.documents import canonical_json, document_hash, indented_json
from lpp.store.format.keys import (
    COMMIT_KEY,
    HEADS_KEY,
    MATRICES_KEY,
    PLAN_KEY,
    QUARANTINE_KEY,
    ROOT_KEY,
    TOKENS_KEY,
    VOCABULARIES_KEY,
)
from lpp.store.format.tables import TOKENS_SCHEMA, encode_table, read_table
from lpp.store.objects.place import Place


def as_format_1(root: Place) -> None:
    """Convert the store at `root` to what an earlier release would have written on a disk.

    Objects are directly in their directories, documents are indented, arrays do not name their
    dimensions, records have no checksums by chunk. Format 1, or 2 for a shard that sets prompts
    aside.
    """
    root = on_disk(root)
    _indent(root / ROOT_KEY)
    for folder in (HEADS_KEY, MATRICES_KEY, VOCABULARIES_KEY):  # format 3
        shutil.rmtree(root / folder, ignore_errors=True)
    for record in sorted(root.rglob(COMMIT_KEY)):
        _flatten(record.parent)
    for run in root.glob("runs/*"):
        for directory in (run, *(run / "shards").iterdir()):
            aside = directory != run and (directory / QUARANTINE_KEY).exists()
            reseal(directory, _as_version(2 if aside else 1))
    for source in root.glob("benchmarks/*/"):
        reseal(source, _as_version(1))


def as_moments(run: Place) -> Path:
    """Rename a run to one with moments and no rows, as releases up to 0.2.0 wrote it. Returns its
    directory. Its shards stay as they are: nobody comes to look at them.
    """
    directory = on_disk(run)
    path = object_path(run, PLAN_KEY)
    document = {**json.loads(path.read_bytes()), "keep": "moments"}
    path.write_bytes(canonical_json(document))
    made = document_hash(document)
    reseal(directory, lambda record: record.update(plan=made))
    return directory.rename(f"{str(directory)[:-8]}{made[:8]}")


def without_varentropy(shard: Place) -> None:
    """Rewrite the token table of the shard in `shard` without its column `varentropy`."""
    path = object_path(shard, TOKENS_KEY)
    table = read_table(path, TOKENS_SCHEMA).drop_columns(["varentropy"])
    path.write_bytes(encode_table(table))
    reseal(shard)


def _flatten(directory: Path) -> None:
    """Move the objects of the committed attempt into the directory."""
    base = json.loads((directory / COMMIT_KEY).read_bytes())["base"]
    for path in (directory / base).iterdir():
        path.rename(directory / path.name)
    shutil.rmtree(directory / base)
    if (directory / PLAN_KEY).exists():
        _indent(directory / PLAN_KEY)
    for metadata in directory.glob("*.zarr/*/zarr.json"):
        document = json.loads(metadata.read_bytes())
        del document["dimension_names"]
        metadata.write_bytes(json.dumps(document, indent=2).encode())


def _indent(path: Path) -> None:
    path.write_bytes(indented_json(json.loads(path.read_bytes())))


def _as_version(version: int) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["format"] = version
        del record["base"]
        for recorded in record["objects"].values():
            recorded.pop("chunks", None)

    return change
