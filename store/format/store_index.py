"""`index.json`, SPEC.md section 12: every object of a store, for readers over HTTP.

A server of plain files cannot list them. The index is a listing that was made once: a reader sees
the store as it was then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import SEAL, checksum
from lpp.store.format.documents import canonical_json, load_json
from lpp.store.format.keys import key_problem

INDEX_VERSION: Final = 1
"""The version of the index, which this release writes and reads."""

Folder: TypeAlias = Mapping[str, Any]
"""A folder: by name the size of an object in bytes, or another folder."""


@dataclass(frozen=True, kw_only=True)
class StoreIndex:
    """The objects of a store at one time."""

    objects: Folder
    """The root directory."""
    database_xxh3_128: str
    """Checksum of `profiles.duckdb`, which no record covers; empty without one."""

    def find(self, key: str) -> Folder | int | None:
        """The folder at `key`, the size of the object, or None if there is nothing."""
        node: Any = self.objects
        for part in key.split("/") if key else ():
            node = node.get(part) if isinstance(node, Mapping) else None
        return node  # type: ignore[no-any-return]


def objects_below(folder: Folder, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key, which begins with `prefix`, and size of each object in a folder, at any depth."""
    for name, node in folder.items():
        if isinstance(node, Mapping):
            yield from objects_below(node, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", node


def index_bytes(sizes: Mapping[str, int], database_xxh3_128: str) -> bytes:
    """The bytes of an index. sizes: in bytes, by key. Leaves out keys that no object may have."""
    root: dict[str, Any] = {}
    for key, size in sizes.items():
        if key_problem(key) is None:
            *folders, name = key.split("/")
            folder = root
            for part in folders:
                folder = folder.setdefault(part, {})
            folder[name] = size
    document = {
        "version": INDEX_VERSION,
        "objects": root,
        "database_xxh3_128": database_xxh3_128,
    }
    return canonical_json({**document, SEAL: checksum(canonical_json(document))})


def parse_index(data: bytes, where: str) -> StoreIndex:
    """The index that `data` holds. where: its place, for messages.

    FormatError: CORRUPT for altered bytes and for names that no object may have,
    UNSUPPORTED_VERSION for the index of a newer release.
    """
    document = load_json(data, where)
    seal = document.pop(SEAL, None) if isinstance(document, dict) else None
    if not isinstance(document, dict) or seal != checksum(canonical_json(document)):
        raise FormatError(
            f"{where}: altered or cut short (its checksum does not match). Repeat the command; if "
            "that does not help, the owner of the store makes it again: lpp-analyze index STORE",
            kind=ErrorKind.CORRUPT,
        )
    if document.get("version") != INDEX_VERSION:
        raise FormatError(
            f"{where}: version {document.get('version')!r} of the index, this release reads "
            f"{INDEX_VERSION}. Install a newer lpp-engine.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    objects = document.get("objects")
    if not isinstance(objects, dict):
        objects = {"objects": None}
    for key, size in objects_below(objects):
        problem = key_problem(key)
        if problem or type(size) is not int or size < 0:
            raise FormatError(
                f"{where}: the key {key[:60]!r} {problem or 'has no size'}. It was not written by "
                "lpp-engine: take nothing from this store.",
                kind=ErrorKind.CORRUPT,
            )
    return StoreIndex(objects=objects, database_xxh3_128=str(document.get("database_xxh3_128")))
