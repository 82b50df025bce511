"""The root document, `lpp.json`, SPEC.md section 2: it makes a directory a store.

Imports no reader: `lpp-sql` starts through it.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.commit_record import checksum
from lpp.store.format.documents import canonical_json, load_json, parse_document, to_document
from lpp.store.format.keys import (
    DATABASE_KEY,
    FORMAT_NAME,
    INDEX_KEY,
    LISTED,
    MAX_DOCUMENT_BYTES,
    MAX_ROOT_BYTES,
    ROOT_KEY,
    ROOT_VERSION,
    RUNS_KEY,
)
from lpp.store.format.store_index import index_bytes
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place, Url, is_read_only, read_only
from lpp.store.objects.protocol import Objects


@dataclass(frozen=True, kw_only=True)
class RootDocument:
    """The fields of `lpp.json`."""

    format: str
    version: int


def find_store(url: Url) -> Objects:
    """The objects of the store at `url`: a directory, a prefix of a bucket, or an address.

    Raises FormatError: NOT_A_STORE when there is none, UNSUPPORTED_VERSION when a newer release
    wrote it. MachineError: DENIED or UNREACHABLE, of an object store.
    """
    root = objects_at(url)
    try:
        data = root.get(ROOT_KEY, MAX_ROOT_BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FormatError(_not_a_store(root), kind=ErrorKind.NOT_A_STORE) from None
    except FormatError as error:  # a link, a directory: nobody's root document
        raise FormatError(str(error), kind=ErrorKind.NOT_A_STORE) from None
    where = str(root.place / ROOT_KEY)
    try:
        document = parse_document(RootDocument, load_json(data, where), where)
    except FormatError as error:
        raise FormatError(f"{error} {_rewrite(root)}".rstrip(), kind=error.kind) from None
    if document.format != FORMAT_NAME:
        raise FormatError(
            f"{where}: format {document.format!r}, not {FORMAT_NAME!r}. {_rewrite(root)}".rstrip(),
            kind=ErrorKind.NOT_A_STORE,
        )
    if document.version < 1:
        raise FormatError(
            f"{where}: store format {document.version}, and formats begin with 1: it was altered. "
            f"{_rewrite(root)}".rstrip(),
            kind=ErrorKind.CORRUPT,
        )
    if document.version > ROOT_VERSION:
        raise FormatError(
            f"{root.place}: store format {document.version}, this release reads 1 to "
            f"{ROOT_VERSION}. Install a newer lpp-engine.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    return root


def make_store(url: Url) -> Objects:
    """The objects of the store at `url`; makes an empty store if there is nothing yet.

    Raises InputError for a directory with other things in it: a store never mixes with them;
    MachineError for a place without exclusive creation, and for an address.
    """
    root = _writable(url)
    if not root.exists(ROOT_KEY):
        # Check again at the end: another writer may be making the same store.
        if any(not e.name.startswith(".") for e in root.entries()) and not root.exists(ROOT_KEY):
            raise _occupied(root)
        try:
            root.check_exclusive()
        except (NotADirectoryError, FileExistsError):
            raise _occupied(root) from None
        root.sweep()
        root.put(ROOT_KEY, _root_bytes())
    return find_store(url)


def find_if_any(url: Url) -> Objects | None:
    """The objects of the store at `url`; None if there is no store and `make_store` could make one.
    Raises what `make_store` would, so a command that works for minutes before it writes calls this
    first. Leaves nothing behind. Exclusive creation is tried in the nearest directory that exists.
    """
    root = _writable(url)
    if root.exists(ROOT_KEY):
        return find_store(url)
    if any(not entry.name.startswith(".") for entry in root.entries()):
        raise _occupied(root)
    try:
        (objects_at(nearest_directory(root.place)) if root.is_local else root).check_exclusive()
    except (NotADirectoryError, FileExistsError):
        raise _occupied(root) from None
    return None


def write_index(url: Url) -> tuple[Place, int]:
    """Write the index of the store at `url`, SPEC.md section 12: readers over HTTP need it, and see
    the store as it is now. Returns its path, and how many objects it lists. Leaves out what a store
    may not contain, such as links.

    One request an object in a bucket. Raises what `find_store` does; InputError for a store of
    more objects than an index holds; MachineError if the store cannot be written.
    """
    root = _writable(find_store(url).place)

    def size_of(key: str) -> int | None:
        try:
            return root.stat(key).size
        except (FileNotFoundError, FormatError):  # removed by a writer; an empty directory, a link
            return None

    keys = [key for key in root.walk() if key.partition("/")[0] in LISTED]
    sizes = zip(keys, root.map(size_of, keys), strict=True)
    listed = {key: size for key, size in sizes if size is not None}
    database = root.local(DATABASE_KEY).read_bytes() if DATABASE_KEY in listed else None
    data = index_bytes(listed, "" if database is None else checksum(database))
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InputError(
            f"{root.place}: an index of {len(listed)} objects takes more than {MAX_DOCUMENT_BYTES} "
            "bytes. Publish fewer runs in one store."
        )
    root.put(INDEX_KEY, data)
    return root.place / INDEX_KEY, len(listed)


def nearest_directory(place: Place) -> Place:
    """The directory `place`, or the first above it that exists; a prefix of a bucket as it is."""
    if not isinstance(place, Path):
        return place
    return next(path for path in (place, *place.absolute().parents) if os.path.lexists(path))


def _writable(url: Url) -> Objects:
    root = objects_at(url)
    if is_read_only(root.place):
        raise read_only(root.place)
    return root


def _root_bytes() -> bytes:
    """The root document of every store that this release makes."""
    return canonical_json(to_document(RootDocument(format=FORMAT_NAME, version=ROOT_VERSION)))


def _rewrite(root: Objects) -> str:
    """How to restore a lost root document; empty for a place without runs."""
    if not any(not entry.name.startswith(".") for entry in root.entries(RUNS_KEY)):
        return ""
    return (
        f"It holds {RUNS_KEY}/: if it is a store, write {_root_bytes().decode()} into "
        f"{root.place / ROOT_KEY}; `lpp-analyze verify {root.place}` then checks the rest."
    )


def _occupied(root: Objects) -> InputError:
    return InputError(_not_a_store(root), kind=ErrorKind.NOT_A_STORE)


def _not_a_store(root: Objects) -> str:
    """What is at a place without a root document, and what to do."""
    place = root.place
    store = enclosing_store(place)
    nearest = nearest_directory(place)
    if store is not None:
        state, todo = f"it is inside the store {store}", f"Give {store}."
    elif isinstance(nearest, Path) and not nearest.is_dir():
        state, todo = f"{nearest} is not a directory", "Give a store, or a new directory."
    elif any(not entry.name.startswith(".") for entry in root.entries()):
        state = f"it holds other files, and no {ROOT_KEY}"
        todo = (
            _rewrite(root)
            or f"Give a store, or a new directory: {shlex.quote(str(place / 'lpp'))}, for example."
        )
    else:
        state = "an empty directory" if root.exists("") else "no such directory"
        todo = f"`lpp-capture run --model ... --store {shlex.quote(str(place))}` makes one."
    return f"{place} is not an lpp store: {state}. {todo}"


def enclosing_store(place: Place) -> Path | None:
    """The store that a path of a disk lies in; None without one, and for a prefix of a bucket."""
    if not isinstance(place, Path):
        return None
    above = place.absolute().parents
    return next((path for path in above if os.path.isfile(path / ROOT_KEY)), None)
