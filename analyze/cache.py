"""Summaries that were computed before, under `analysis/` of the store.

One Arrow IPC file (zstd) per run, set of committed shards, kernel version and site:

    analysis/<run_id>/<shard set>-k<kernel version>/<site>.arrow

A row is one X(L): number of prompts, prefix, and its summary. It holds no context, since X(L)
does not depend on one. New shards or a new kernel make another path, so nothing stale is read.
Files are written beside and put in place in one step: of two analyses at once the last one's
file stays, and at worst something is computed again. Everything here may be deleted at any time.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from lpp.analyze.bands import Cell
from lpp.analyze.spectrum import Summary
from lpp.store.errors import LppError
from lpp.store.files import checksum, replace_file
from lpp.store.keys import ANALYSIS_KEY
from lpp.store.run import Run

KERNEL_VERSION: Final = 1
"""Raise it when a change of the arithmetic could change a digit that is kept."""

SCHEMA: Final = pa.schema(
    [
        pa.field("n_prompts", pa.int32(), nullable=False),
        pa.field("prefix", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("total", pa.float64(), nullable=False),
        pa.field("sum_squares", pa.float64(), nullable=False),
        pa.field("eigenvalues", pa.list_(pa.float64())),
    ]
)

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
            if cell not in merged or summary.eigenvalues is not None:
                merged[cell] = summary
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


def _table(found: Mapping[Cell, Summary]) -> pa.Table:
    rows = sorted(found.items())
    columns: dict[str, list[Any]] = {
        "n_prompts": [cell.n_prompts for cell, _ in rows],
        "prefix": [cell.prefix for cell, _ in rows],
    }
    for name in SCHEMA.names[2:]:
        columns[name] = [getattr(summary, name) for _, summary in rows]
    return pa.table(columns, schema=SCHEMA)


def _summaries(table: pa.Table) -> dict[Cell, Summary]:
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"its columns are {table.schema.names}")
    found = {}
    values = table["eigenvalues"].combine_chunks()
    for index, row in enumerate(table.drop_columns("eigenvalues").to_pylist()):
        some = values[index]
        found[Cell(row["n_prompts"], row["prefix"])] = Summary(
            n_tokens=row["n_tokens"],
            dim=row["dim"],
            total=row["total"],
            sum_squares=row["sum_squares"],
            eigenvalues=some.values.to_numpy() if some.is_valid else None,
        )
    return found


def _checksum(found: Mapping[Cell, Summary]) -> str:
    parts = []
    for cell, s in sorted(found.items()):
        numbers = np.array([*cell, s.n_tokens, s.dim, s.total, s.sum_squares])
        values = b"-" if s.eigenvalues is None else s.eigenvalues.tobytes()
        parts += [numbers.tobytes(), values]
    return checksum(b"".join(parts))
