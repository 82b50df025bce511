"""Summaries that were computed before, under `analysis/` of the store.

One Arrow IPC file (zstd) per run, set of committed shards, kernel version and site:

    analysis/<run_id>/<shard set>-k<kernel version>/<site>.arrow

A row is one matrix of one cell: what every spectral metric and its error is computed from. It
holds no context, since X(L) does not depend on one. New shards or a new kernel make another path,
so nothing stale is read.
Files are written beside and put in place in one step: of two analyses at once the last one's
file stays, and at worst something is computed again. Everything here may be deleted at any time.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from lpp.analyze.cells import Cell
from lpp.analyze.spectrum import Spectrum
from lpp.analyze.summary import Summary
from lpp.store.errors import LppError
from lpp.store.files import checksum, replace_file
from lpp.store.keys import ANALYSIS_KEY
from lpp.store.run import Run

KERNEL_VERSION: Final = 2
"""Raise it when a change of the arithmetic could change a digit that is kept."""

SCHEMA: Final = pa.schema(
    [
        pa.field("n_prompts", pa.int32(), nullable=False),
        pa.field("prefix", pa.int32(), nullable=False),
        pa.field("groups", pa.int32(), nullable=False),
        pa.field("left_out", pa.int32(), nullable=False),
        pa.field("matrix", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("total", pa.float64(), nullable=False),
        pa.field("sum_squares", pa.float64(), nullable=False),
        pa.field("variances", pa.list_(pa.float64()), nullable=False),
        pa.field("eigenvalues", pa.list_(pa.float64())),
    ]
)

_KEPT: Final = tuple(SCHEMA.names[5:])
_META: Final = b"lpp"
_log = logging.getLogger("lpp.analyze")


class SpectrumCache:
    """Kept summaries of one run, as its committed shards are now."""

    def __init__(self, root: Path, run: Run) -> None:
        self._shards = checksum(" ".join(shard.digest for shard in run.shards).encode())[:16]
        self._run = run.id
        self.folder = root / ANALYSIS_KEY / run.id / f"{self._shards}-k{KERNEL_VERSION}"
        self._writable = True

    def path(self, site: str) -> Path:
        """The file of one site."""
        return self.folder / f"{site}.arrow"

    def read(self, site: str) -> dict[Cell, Summary]:
        """What is kept for `site`. A damaged or foreign file counts as nothing, with a log line."""
        path = self.path(site)
        try:
            data = path.read_bytes()
        except OSError:
            return {}
        try:
            with pa.ipc.open_file(pa.py_buffer(data)) as reader:
                table = reader.read_all()
            found = _summaries(table)
            if table.schema.metadata[_META] != self._meta(site, found):
                raise ValueError("written for other rows, or altered")
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            _log.warning("%s: computing it again (%s)", path, error)
            return {}
        return found

    def write(self, site: str, found: Mapping[Cell, Summary]) -> None:
        """Keep `found` with what is there. A store that cannot be written costs one log line."""
        if not self._writable or not found:
            return
        merged = self.read(site)
        for cell, summary in found.items():
            merged[cell] = summary.joined(merged[cell]) if cell in merged else summary
        table = _table(merged).replace_schema_metadata({_META: self._meta(site, merged)})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.path(site), bytes(sink.getvalue()))
        except (OSError, LppError) as error:
            self._writable = False
            _log.warning("%s: results are not kept (%s)", self.folder, error)

    def _meta(self, site: str, found: Mapping[Cell, Summary]) -> bytes:
        """What the file must say of itself: whose rows these are, and their checksum."""
        document = {
            "kernel": KERNEL_VERSION,
            "run": self._run,
            "shards": self._shards,
            "site": site,
            "rows": _checksum(found),
        }
        return json.dumps(document, sort_keys=True).encode()


def _spectra(found: Mapping[Cell, Summary]) -> Iterator[tuple[Cell, str, Spectrum]]:
    """What is kept, in one order."""
    for cell, summary in sorted(found.items(), key=lambda item: item[0]):
        yield cell, "covariance", summary.covariance
        if summary.correlation is not None:
            yield cell, "correlation", summary.correlation


def _table(found: Mapping[Cell, Summary]) -> pa.Table:
    rows = [
        {**cell._asdict(), "matrix": matrix, **{name: getattr(kept, name) for name in _KEPT}}
        for cell, matrix, kept in _spectra(found)
    ]
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def _summaries(table: pa.Table) -> dict[Cell, Summary]:
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"its columns are {table.schema.names}")
    lists = {name: table[name].combine_chunks() for name in ("variances", "eigenvalues")}
    found: dict[Cell, dict[str, Spectrum]] = {}
    for index, row in enumerate(table.drop_columns(list(lists)).to_pylist()):
        cell = Cell(*(row[name] for name in Cell._fields))
        arrays = {name: _array(column[index]) for name, column in lists.items()}
        kept = {name: row[name] for name in _KEPT if name not in lists}
        found.setdefault(cell, {})[row["matrix"]] = Spectrum(**kept, **arrays)
    return {cell: Summary(**spectra) for cell, spectra in found.items()}


def _array(some: pa.ListScalar) -> Any:
    return some.values.to_numpy() if some.is_valid else None


def _checksum(found: Mapping[Cell, Summary]) -> str:
    parts = []
    for cell, matrix, kept in _spectra(found):
        numbers = np.array([*cell, kept.n, kept.dim, kept.total, kept.sum_squares])
        values = b"-" if kept.eigenvalues is None else kept.eigenvalues.tobytes()
        parts += [matrix.encode(), numbers.tobytes(), kept.variances.tobytes(), values]
    return checksum(b"".join(parts))
