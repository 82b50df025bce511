"""Computed numbers as checksummed Arrow files under `analysis/`.

    analysis/<folder>/<group>/<kind>-<checksum>.arrow

Files are Arrow IPC (zstd). Each command adds its own files, so several may write at once. The
checksum in a file's name covers its bytes, folder, group and kind. All files may be deleted at any
time.
"""

import logging
from collections.abc import Iterator
from typing import Final

import polars as pl
import pyarrow as pa

from lpp.store.errors import FormatError, LppError, MachineError
from lpp.store.format.arrow_limits import check_declared
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.format.tables import encode_table
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.read import Run

MAX_BYTES: Final = 1 << 32
"""Most bytes of a file."""

MANY_FILES: Final = 8
"""With more files of one group and kind, the next `add` replaces them all by one."""

_log = logging.getLogger("lpp.analyze")

_unwritable: Final[dict[str, object]] = {}
"""Stores of which a line said that they cannot be written: a store has many folders."""


def shard_set(run: Run) -> str:
    """Identifies the currently committed shards of a run: 16 hex digits."""
    return checksum(" ".join(shard.digest for shard in run.shards).encode())[:16]


def name_of(*parts: object) -> str:
    """A name that depends on `parts`: 16 hex digits."""
    return checksum(repr([str(part) for part in parts]).encode())[:16]


class KeptFiles:
    """The files of one folder below `analysis/` of the store at `root`."""

    def __init__(self, root: Place, folder: str) -> None:
        self._key = f"{ANALYSIS_KEY}/{folder}"
        self._root = str(root)
        self._objects = objects_at(root).below(self._key)
        self.folder = self._objects.place
        self._writable = True

    def frames(self, group: str, kind: str, schema: pl.Schema) -> Iterator[pl.DataFrame]:
        """Each file of one kind. A damaged or foreign file is ignored, with a log line."""
        for key in self._files(group, kind):
            try:
                data = self._objects.get(key, MAX_BYTES)
                if key != self.name(group, kind, data):
                    raise ValueError("written for other rows, or altered")
                found = _parsed(data, schema)
            except MachineError:
                raise
            except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
                _log.warning("%s: computing it again (%s)", self.folder / key, error)
                continue
            yield found

    def rows(self, group: str, kind: str, schema: pl.Schema) -> pl.DataFrame:
        """The rows of every file of one kind."""
        return pl.concat([pl.DataFrame(schema=schema), *self.frames(group, kind, schema)])

    def add(self, group: str, kind: str, frame: pl.DataFrame) -> None:
        """Add rows; merge the files if there are many.

        If the store cannot be written, the first time logs a line.
        """
        before = self._files(group, kind)
        if len(before) < MANY_FILES:
            self.put(group, kind, frame)
            return
        every = pl.concat([self.rows(group, kind, frame.schema), frame])
        self.put(group, kind, every, instead_of=before)

    def put(
        self, group: str, kind: str, frame: pl.DataFrame, instead_of: list[str] | None = None
    ) -> None:
        """Write `frame` to a file. instead_of: files to remove once it is written."""
        if not self._writable:
            return
        data = encode_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
        name = self.name(group, kind, data)
        try:
            self._objects.put(name, data)
            if instead_of:
                self._objects.delete(key for key in instead_of if key != name)
        except (OSError, LppError) as error:
            self._writable = False
            first = object()  # not the error: its traceback would keep the caller's frames alive
            if _unwritable.setdefault(self._root, first) is first:  # several threads write at once
                _log.warning("%s: results are not kept (%s)", self._root, error)

    def name(self, group: str, kind: str, data: bytes) -> str:
        """Name of a file with these bytes, with a checksum of folder, group, kind and bytes."""
        digest = checksum(f"{self._key}/{group}/{kind} ".encode() + data)
        return f"{group}/{kind}-{digest}.arrow"

    def _files(self, group: str, kind: str) -> list[str]:
        try:
            entries = self._objects.entries(group)
        except MachineError:
            raise
        except (OSError, FormatError):
            return []
        names = sorted(entry.name for entry in entries if entry.name.startswith(f"{kind}-"))
        return [f"{group}/{name}" for name in names]


def _parsed(data: bytes, schema: pl.Schema) -> pl.DataFrame:
    """The rows of a file. Raises ValueError or ArrowException for other content."""
    check_declared(memoryview(data), rows=None)
    with pa.ipc.open_file(pa.py_buffer(data)) as reader:
        table = reader.read_all()
    table.validate(full=True)
    frame = pl.DataFrame(pl.from_arrow(table))
    if frame.schema != schema:
        raise ValueError(f"its columns are {frame.columns}")
    return frame
