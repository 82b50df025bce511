"""Computed numbers as checksummed Arrow files under `analysis/`.

    analysis/<folder>/<group>/<kind>-<checksum>.arrow

Files are Arrow IPC (zstd). Each command adds its own files, so several may write at once. The
checksum in a file's name covers its bytes, folder, group and kind: it finds accidents, and anybody
can compute it, so files of another author are not read (`authors`). All files may be deleted at any
time, and are not flushed to disk: one that a power cut emptied fits no checksum. Inside
`computing_again`, only files that this process wrote are read, and they replace the others.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.types as pat

from lpp.store.errors import FormatError, LppError, MachineError
from lpp.store.format.arrow_limits import check_declared
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.format.tables import encode_table
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.shared.authors import TRUST, is_trusting, other_author

MAX_BYTES: Final = 1 << 36
"""Most bytes of a file."""

MANY_FILES: Final = 8
"""With more files of one group and kind, the next `add` replaces them all by one."""

_UNREADABLE: Final = (
    *(pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError),
    pl.exceptions.PanicException,  # a BaseException
)

_log = logging.getLogger("lpp.store")

_unwritable: Final[dict[str, object]] = {}
"""Stores of which a line said that they cannot be written: a store has many folders."""


_of_others: Final[dict[str, object]] = {}
"""Stores of which a line said that numbers of another author are not used."""

_again: Final[list[object]] = []
"""An entry for each `computing_again` block that has not ended."""

_written_here: Final[set[tuple[str, str]]] = set()
"""Files that this process wrote while it computed again: place of the folder, and key."""


@contextmanager
def computing_again() -> Iterator[None]:
    """Until the block ends, `KeptFiles` that are made ignore what earlier commands kept, and
    replace it.
    """
    _again.append(None)
    try:
        yield
    finally:
        _again.pop()
        _written_here.clear()


def name_of(*parts: object) -> str:
    """A name that depends on `parts`: 16 hex digits."""
    return checksum(repr([str(part) for part in parts]).encode())[:16]


class KeptFiles:
    """The files of one folder below `analysis/` of the store at `root`."""

    def __init__(self, root: Place, folder: str) -> None:
        self._key = f"{ANALYSIS_KEY}/{folder}"
        self._root = root
        self._objects = objects_at(root).below(self._key)
        self.folder = self._objects.place
        self._writable = True
        self._again = bool(_again)  # both are kept when this object is sent to another process
        self._trusting = is_trusting()

    def frames(self, group: str, kind: str, schema: pl.Schema) -> Iterator[pl.DataFrame]:
        """Each file of one kind. A damaged file, and one of another author, is ignored, with a log
        line.
        """
        for table in self._tables(group, kind, schema):
            yield pl.DataFrame(pl.from_arrow(table))

    def tuples(self, group: str, kind: str, schema: pl.Schema) -> Iterator[tuple[Any, ...]]:
        """The rows of `frames` in a fifth of the time, for one who asks thousands of folders."""
        for table in self._tables(group, kind, schema):
            yield from zip(*map(_values, table.columns), strict=True)

    def _tables(self, group: str, kind: str, schema: pl.Schema) -> Iterator[pa.Table]:
        for key in self._read(group, kind):
            try:
                table = _parsed(self._unaltered(group, kind, key), schema)
            except MachineError:
                raise
            except _UNREADABLE as error:
                _log.warning("%s: computing it again (%s)", self.folder / key, error)
                continue
            if table is not None:
                yield table

    def files(self, group: str) -> Iterator[tuple[str, bytes]]:
        """Kind and bytes of each file of a group whose rows count. A damaged file is left out, with
        a log line.
        """
        for kind in sorted({e.name.rpartition("-")[0] for e in self._objects.entries(group)}):
            for key in self._read(group, kind):
                try:
                    data = self._unaltered(group, kind, key)
                except ValueError as error:
                    _log.warning("%s: left out (%s)", self.folder / key, error)
                else:
                    yield kind, data

    def _unaltered(self, group: str, kind: str, key: str) -> bytes:
        data = self._objects.get(key, MAX_BYTES)
        if key != self.name(group, kind, data):
            raise ValueError("written for other rows, or altered")
        return data

    def rows(self, group: str, kind: str, schema: pl.Schema) -> pl.DataFrame:
        """The rows of every file of one kind."""
        return pl.concat([pl.DataFrame(schema=schema), *self.frames(group, kind, schema)])

    def add(self, group: str, kind: str, frame: pl.DataFrame) -> None:
        """Add rows; merge the files if there are many.

        If the store cannot be written, the first time logs a line.
        """
        before = self._read(group, kind)
        if len(before) < MANY_FILES:
            self.put(group, kind, frame)
            return
        self._objects.below(group).sweep()  # of those that were killed
        merged = pl.concat([self.rows(group, kind, frame.schema), frame])
        self.put(group, kind, merged, instead_of=before)

    def put(
        self, group: str, kind: str, frame: pl.DataFrame, instead_of: list[str] | None = None
    ) -> None:
        """Write `frame` to a file. instead_of: files to remove once it is written."""
        if not self._writable:
            return
        data = encode_table(_arrow(frame))
        name = self.name(group, kind, data)
        gone = {*(instead_of or ())}
        if self._again:
            gone |= {*self._files(group, kind)}.difference(self._read(group, kind))
        try:
            self._objects.put(name, data, lasting=False)
            if self._again:
                _written_here.add((str(self.folder), name))
            self._objects.delete(key for key in sorted(gone) if key != name)
        except (OSError, LppError) as error:
            self._writable = False
            if _is_first(_unwritable, self._root):
                _log.warning("%s: results are not kept (%s)", self._root, error)

    def name(self, group: str, kind: str, data: bytes) -> str:
        """Name of a file with these bytes, with a checksum of folder, group, kind and bytes."""
        digest = checksum(f"{self._key}/{group}/{kind} ".encode() + data)
        return f"{group}/{kind}-{digest}.arrow"

    def _read(self, group: str, kind: str) -> list[str]:
        """The files whose rows count."""
        keys, folder = self._files(group, kind), str(self.folder)
        if self._again:
            return [key for key in keys if (folder, key) in _written_here]
        return [key for key in keys if self._trusting or self._is_own(key)]

    def _is_own(self, key: str) -> bool:
        author = other_author(self._root, f"{self._key}/{key}")
        if author and _is_first(_of_others, self._root):
            _log.warning(
                "%s: numbers under %s/ were written by %s and are computed again. %s uses them.",
                self._root,
                ANALYSIS_KEY,
                author,
                TRUST,
            )
        return author is None

    def _files(self, group: str, kind: str) -> list[str]:
        try:
            entries = self._objects.entries(group)
        except MachineError:
            raise
        except (OSError, FormatError):
            return []
        names = sorted(entry.name for entry in entries if entry.name.startswith(f"{kind}-"))
        return [f"{group}/{name}" for name in names]


def _is_first(said: dict[str, object], root: Place) -> bool:
    """Whether no line was logged of the store at `root`; several threads ask at once."""
    first = object()  # not an error: its traceback would keep the caller's frames alive
    return said.setdefault(str(root), first) is first


def _parsed(data: bytes, schema: pl.Schema) -> pa.Table | None:
    """The rows of a file; None for other columns, which another release keeps. Raises ValueError or
    ArrowException for other content.
    """
    check_declared(memoryview(data), rows=None)
    with pa.ipc.open_file(pa.py_buffer(data)) as reader:
        # Arrow has types and metadata at which Polars panics
        if not reader.schema.equals(_schema(tuple(schema.items()))):
            return None
        table = reader.read_all()
    table.validate(full=True)
    return table


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; of lists of numbers a tenth of the time of `to_pylist`."""
    if not pat.is_large_list(column.type):
        return [*column.to_pylist()]
    lists = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
    values = lists.values.to_numpy(zero_copy_only=False).tolist()
    return [values[start:end] for start, end in pairwise(lists.offsets.to_pylist())]


@lru_cache
def _schema(columns: tuple[tuple[str, pl.DataType], ...]) -> pa.Schema:
    return _arrow(pl.DataFrame(schema=dict(columns))).schema


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
