"""The only way to open the objects of a committed directory: a run, a shard, a source of scores.

Reading, verification, repair and queries all open directories here. The record is read first,
checked and bounded; then each object is compared with it before any of its bytes is used. An
altered object is refused, with its place and the next command.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Generic

import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.decode_pool import decode_pool
from lpp.store.arrays.layout import ArrayLayout, ArraySpec
from lpp.store.arrays.metadata import METADATA_KEY, parse_layout
from lpp.store.arrays.reader import Chunk, ReadAs, check_object, read_rows, recorded_chunks
from lpp.store.errors import ErrorKind, FormatError, LppError, MachineError
from lpp.store.format.commit_record import ATTEMPT, ChunkRecord, ObjectRecord, Record, parse_record
from lpp.store.format.keys import COMMIT_KEY, MAX_DOCUMENT_BYTES
from lpp.store.format.tables import read_table
from lpp.store.objects.place import Place, is_read_only
from lpp.store.objects.protocol import Objects, Source

_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Checked(Generic[Record]):
    """A directory whose record is intact, and its objects."""

    def __init__(self, directory: Objects, record: Record) -> None:
        self.directory = directory
        self.record = record
        self._files: dict[str, Path] = {}
        self._layouts: dict[str, ArrayLayout] = {}

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which compares the objects again."""
        return {**self.__dict__, "_files": {}}

    @property
    def path(self) -> Place:
        """The directory."""
        return self.directory.place

    @property
    def objects_dir(self) -> Place:
        """The folder of its objects."""
        return self.objects.place

    @cached_property
    def objects(self) -> Objects:
        """The folder of the objects: the attempt that was committed."""
        return self.directory.below(self.record.base)

    def recorded(self, key: str) -> ObjectRecord:
        """The record's entry of an object."""
        with self.refusing(key):
            return self.record.objects[key]

    def document(self, key: str) -> bytes:
        """The bytes of a document."""
        recorded = self.recorded(key)
        with self.refusing(key):
            data = self.objects.get(key, MAX_DOCUMENT_BYTES)
            if ObjectRecord.of([data]).whole != recorded.whole:
                raise ValueError
        return data

    def file(self, key: str) -> Path:
        """An object as a local file; compared once."""
        if key not in self._files:
            recorded = self.recorded(key)
            with self.refusing(key):
                self._files[key] = self.objects.file(key, recorded)
        return self._files[key]

    @contextlib.contextmanager
    def compared(self, key: str) -> Iterator[Source]:
        """The bytes of an object, compared before the block begins."""
        recorded = self.recorded(key)
        with contextlib.ExitStack() as stack:
            with self.refusing(key):
                source = stack.enter_context(self.objects.open_compared(key, recorded))
            yield source

    def table(
        self, key: str, schema: pa.Schema, *, rows: int | None = None, extra: int | None = 0
    ) -> pa.Table:
        """The columns of `schema` of an Arrow table; bounded as `read_table` says."""
        with self.refusing(key):
            return read_table(self.file(key), schema, rows=rows, extra=extra)

    @contextlib.contextmanager
    def array(
        self,
        group: str,
        spec: ArraySpec,
        *,
        start: int = 0,
        end: int | None = None,
    ) -> Iterator["CheckedArray"]:
        """An array of the Zarr group `group`, of which rows `start` to `end` will be read: only
        their chunks, each compared when it is read.
        """
        folder = f"{group}/{spec.name}"
        key = f"{folder}/c/0/0"
        layout = self._layout(folder, spec, str(self.objects.place / folder))
        recorded = self.recorded(key)
        ahead = _bytes_of(layout, recorded.chunks, start, end)
        with contextlib.ExitStack() as stack:
            with self.refusing(key):
                opened = self.objects.open(key, ahead=ahead, size=recorded.bytes)
                source = stack.enter_context(opened)
            where = str(self.objects.place / key)
            chunks = recorded_chunks(source, layout, recorded.chunks, where=where)
            yield CheckedArray(layout, source, chunks, where)

    def _layout(self, folder: str, spec: ArraySpec, where: str) -> ArrayLayout:
        """The layout that the metadata of an array describes, read once."""
        layout = self._layouts.get(folder)
        if layout is None or layout.spec != spec:
            layout = parse_layout(self.document(f"{folder}/{METADATA_KEY}"), spec, where)
            self._layouts[folder] = layout
        return layout

    @contextlib.contextmanager
    def refusing(self, key: str) -> Iterator[None]:
        """Turn a mismatch with the record into an error that names the object and what to do."""
        try:
            yield
        except LppError:
            raise
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, _ABSENT) and self._is_replaced():
                raise FormatError(
                    f"{self.path}: another process changed it meanwhile. Repeat the same command.",
                    kind=ErrorKind.IN_USE,
                ) from None
            state = "missing"
            if isinstance(error, ValueError):
                state = "altered or cut short"
            elif isinstance(error, OSError) and not isinstance(error, _ABSENT):
                state = f"not readable ({error.strerror})"
            raise FormatError(
                f"{self.objects.place / key}: {state} since it was committed. {self.remedy}",
                kind=ErrorKind.CORRUPT,
            ) from None

    def _is_replaced(self) -> bool:
        """Whether another record stands in the place of the one that was read."""
        try:
            return open_checked(self.directory, type(self.record)).record.base != self.record.base
        except (LppError, OSError):
            return False

    @property
    def remedy(self) -> str:
        """Advice for messages about an altered object."""
        root = self.directory.root
        if is_read_only(root):
            return (
                f"`lpp-analyze verify {root}` lists every such object; only the owner of the store "
                "can repair it."
            )
        return (
            f"`lpp-analyze verify {root}` lists every such object, and `lpp-capture repair {root}` "
            "computes again the shards they belong to."
        )


@dataclass(frozen=True, slots=True)
class CheckedArray:
    """An array whose rows are compared with the record when they are read."""

    layout: ArrayLayout
    source: Source
    chunks: Sequence[Chunk]
    where: str

    def rows(
        self,
        start: int,
        end: int,
        *,
        dtype: ReadAs = "stored",
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Rows `start` up to `end`, (end - start, width). FormatError for altered bytes.

        out: where they are written; new memory by default.
        """
        return read_rows(
            self.source,
            self.layout,
            start,
            end,
            where=self.where,
            dtype=dtype,
            chunks=self.chunks,
            out=out,
            pool=decode_pool(),
        )

    def check(self) -> None:
        """Raise FormatError unless every chunk exists and declares the size it should have."""
        check_object(self.source, self.layout, where=self.where, chunks=self.chunks)


def _bytes_of(
    layout: ArrayLayout, chunks: Sequence[ChunkRecord], start: int, end: int | None
) -> range:
    """Range of bytes of the object that holds rows `start` up to `end`; None if unknown."""
    end = layout.spec.rows if end is None else end
    first, last = start // layout.chunk_rows, -(-end // layout.chunk_rows)
    before = sum(chunk.bytes for chunk in chunks[:first])
    return range(before, before + sum(chunk.bytes for chunk in chunks[first:last]))


@lru_cache(maxsize=16)
def _parsed(kind: Any, data: bytes, where: str) -> Any:
    """`parse_record`. A table that is scanned reads the same records again when it is collected."""
    return parse_record(kind, data, where)


def open_checked(directory: Objects, kind: type[Record]) -> Checked[Record]:
    """The committed directory.

    Raises FileNotFoundError if it has no record; FormatError: CORRUPT for altered bytes,
    UNSUPPORTED_VERSION for a format that this release does not read.
    """
    data = directory.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
    record: Record = _parsed(kind, data, str(directory.place / COMMIT_KEY))
    return Checked(directory, record)


def is_unsupported(directory: Objects, kind: type[Record]) -> bool:
    """Whether the directory has a format that this release does not read, and must not touch."""
    try:
        open_checked(directory, kind)
    except FormatError as error:
        return error.kind is ErrorKind.UNSUPPORTED_VERSION
    except MachineError:
        raise
    except OSError:
        pass
    return False


def holds_more_than_attempts(directory: Objects) -> bool:
    """Whether it holds anything but writers' leftovers: attempts and names with a dot."""
    names = (entry.name for entry in directory.entries())
    return any(not name.startswith(".") and not ATTEMPT.fullmatch(name) for name in names)
