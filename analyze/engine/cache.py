"""Numbers that were computed before, under `analysis/` of the store.

Arrow IPC files (zstd) per run, set of committed shards, kernel version and site:

    analysis/<run_id>/<shard set>-k<kernel version>/<site>.arrow         spectra
    analysis/<run_id>/<shard set>-k<kernel version>/<site>.values.arrow  metrics that need rows

What is in them says `cache_tables`. They hold no context, since X(L) does not depend on one. New
shards or a new kernel make another path, so nothing stale is read. Files are written beside and
put in place in one step: of two analyses at once the last one's file stays, and at worst something
is computed again. Everything here may be deleted at any time.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa

from lpp.analyze.engine import cache_tables
from lpp.analyze.engine.row_values import Values
from lpp.analyze.engine.summary import Summary
from lpp.analyze.runs.cells import Cell
from lpp.store.errors import FormatError, LppError, MachineError
from lpp.store.format.arrow_limits import check_declared
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.read import Run

KERNEL_VERSION: Final = 3
"""Raise it when a change of the arithmetic, or of a metric that needs rows, could change a digit
that is kept."""

MAX_BYTES: Final = 1 << 32
"""Bytes of a file of kept numbers, at most."""

_META: Final = b"lpp"
_log = logging.getLogger("lpp.analyze")


class Cache:
    """Kept numbers of one run, as its committed shards are now."""

    def __init__(self, root: Place, run: Run) -> None:
        self._shards = checksum(" ".join(shard.digest for shard in run.shards).encode())[:16]
        self._run = run.id
        key = f"{ANALYSIS_KEY}/{run.id}/{self._shards}-k{KERNEL_VERSION}"
        self._objects = objects_at(root).below(key)
        self.folder = self._objects.place
        self._writable = True

    def summaries(self, site: str) -> dict[Cell, Summary]:
        """Spectra kept of `site`. A damaged or foreign file counts as nothing, with a log line."""
        found: dict[Cell, Summary] = self._read(
            f"{site}.arrow", cache_tables.summaries, cache_tables.summaries_checksum
        )
        return found

    def keep_summaries(self, site: str, found: Mapping[Cell, Summary]) -> None:
        """Keep `found` with what is there. A store that cannot be written costs one log line."""
        kept = self.summaries(site)
        for cell, summary in found.items():
            kept[cell] = summary.joined(kept[cell]) if cell in kept else summary
        digest = cache_tables.summaries_checksum(kept)
        self._write(f"{site}.arrow", cache_tables.spectra_table(kept), digest)

    def values(self, site: str) -> Values:
        """Numbers kept that were made from the rows of `site`."""
        found: Values = self._read(
            f"{site}.values.arrow", cache_tables.values, cache_tables.values_checksum
        )
        return found

    def keep_values(self, site: str, found: Values) -> None:
        """Keep `found` with what is there."""
        kept = self.values(site) | found
        digest = cache_tables.values_checksum(kept)
        self._write(f"{site}.values.arrow", cache_tables.values_table(kept), digest)

    def _read(
        self, name: str, parsed: Callable[[pa.Table], Any], digest: Callable[[Any], str]
    ) -> Any:
        try:
            data = self._objects.get(name, MAX_BYTES)
        except MachineError:
            raise
        except (OSError, FormatError):
            return {}
        try:
            check_declared(memoryview(data), rows=None)
            with pa.ipc.open_file(pa.py_buffer(data)) as reader:
                table = reader.read_all()
            table.validate(full=True)
            found = parsed(table)
            if table.schema.metadata[_META] != self._meta(name, digest(found)):
                raise ValueError("written for other rows, or altered")
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            _log.warning("%s: computing it again (%s)", self.folder / name, error)
            return {}
        return found

    def _write(self, name: str, table: pa.Table, digest: str) -> None:
        if not self._writable:
            return
        table = table.replace_schema_metadata({_META: self._meta(name, digest)})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        try:
            self._objects.put(name, bytes(sink.getvalue()))
        except (OSError, LppError) as error:
            self._writable = False
            _log.warning("%s: results are not kept (%s)", self.folder, error)

    def _meta(self, name: str, digest: str) -> bytes:
        """What the file must say of itself: whose rows these are, and their checksum."""
        document = {
            "kernel": KERNEL_VERSION,
            "run": self._run,
            "shards": self._shards,
            "site": name,
            "rows": digest,
        }
        return json.dumps(document, sort_keys=True).encode()
