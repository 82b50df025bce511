"""Numbers that were computed before, under `analysis/` of the store.

    analysis/<run_id>/<shard set>/<site>/spectra-<checksum>.arrow
    analysis/<run_id>/<shard set>/<site>/values-<checksum>.arrow

Arrow IPC files (zstd): spectra of cells, from which every metric of a spectrum is computed, and
values of metrics that need rows. They hold no context, since X(L) does not depend on one. Each
command adds files of what it computed, so several may write at once; a reader takes them all
together. New shards make another folder. Each row has the version of what computed it: of the
arithmetic of spectra, or of its metric; rows of other versions count as nothing. The checksum in a
file's name covers its bytes and whose rows they are of. Everything here may be deleted at any time.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from lpp.analyze.engine.row_values import Values
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.summary import Summary
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.runs.cells import Cell
from lpp.store.errors import FormatError, LppError, MachineError
from lpp.store.format.arrow_limits import check_declared
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.read import Run

KERNEL_VERSION: Final = 4
"""Of the arithmetic of spectra. Raise it when a change could change a digit that is kept; for a
metric that needs rows, raise its own `Metric.version`."""

MAX_BYTES: Final = 1 << 32
"""Bytes of a file of kept numbers, at most."""

MANY_FILES: Final = 8
"""Files of one site, beyond which the next command writes one in place of all."""

_CELL: Final = [(name, pl.Int32()) for name in Cell._fields]
_NUMBERS: Final = {"n": pl.Int64, "dim": pl.Int32, "total": pl.Float64, "sum_squares": pl.Float64}
_LISTS: Final = ("variances", "eigenvalues")

SPECTRA: Final = pl.Schema(
    [
        *_CELL,
        ("version", pl.Int32()),
        ("matrix", pl.String()),
        *((name, kind()) for name, kind in _NUMBERS.items()),
        *((name, pl.List(pl.Float64())) for name in _LISTS),
    ]
)
"""A row per cell and matrix; eigenvalues are null where nothing asked for them."""

VALUES: Final = pl.Schema(
    [*_CELL, ("version", pl.Int32()), ("metric", pl.String()), ("value", pl.Float64())]
)
"""A row per cell and metric that needed the rows themselves. NaN: not defined there."""

_log = logging.getLogger("lpp.analyze")


class Cache:
    """Kept numbers of one run, as its committed shards are now."""

    def __init__(self, root: Place, run: Run) -> None:
        shards = checksum(" ".join(shard.digest for shard in run.shards).encode())[:16]
        self._key = f"{ANALYSIS_KEY}/{run.id}/{shards}"
        self._objects = objects_at(root).below(self._key)
        self.folder = self._objects.place
        self._writable = True

    def summaries(self, site: str) -> dict[Cell, Summary]:
        """Spectra kept of `site`. A damaged or foreign file counts as nothing, with a log line."""
        rows = self._read(site, "spectra", SPECTRA).filter(version=KERNEL_VERSION)
        spectra: dict[Cell, dict[str, Spectrum]] = {}
        lists = {name: rows[name] for name in _LISTS}
        for place, row in enumerate(rows.drop(_LISTS).iter_rows(named=True)):
            arrays = {name: _array(column[place]) for name, column in lists.items()}
            found = Spectrum(**{name: row[name] for name in _NUMBERS}, **arrays)
            of_cell = spectra.setdefault(_cell(row), {})
            held = of_cell.get(row["matrix"])
            if held is None or held.eigenvalues is None:
                of_cell[row["matrix"]] = found
        whole = {cell: kept for cell, kept in spectra.items() if "covariance" in kept}
        return {cell: Summary(**kept) for cell, kept in whole.items()}

    def keep_summaries(self, site: str, found: Mapping[Cell, Summary]) -> None:
        """Keep `found` beside what is there. A store that cannot be written costs one log line."""
        rows = [
            (*cell, KERNEL_VERSION, matrix, *(getattr(kept, name) for name in (*_NUMBERS, *_LISTS)))
            for cell, summary in found.items()
            for matrix in ("covariance", "correlation")
            if (kept := getattr(summary, matrix)) is not None
        ]
        self._add(site, "spectra", rows, SPECTRA)

    def values(self, site: str) -> Values:
        """Numbers kept that were made from the rows of `site`."""
        rows = self._read(site, "values", VALUES)
        return {
            (_cell(row), row["metric"]): row["value"]
            for row in rows.iter_rows(named=True)
            if _version(row["metric"]) == row["version"]
        }

    def keep_values(self, site: str, found: Values) -> None:
        """Keep `found` beside what is there."""
        rows = [(*cell, _version(metric), metric, value) for (cell, metric), value in found.items()]
        self._add(site, "values", rows, VALUES)

    def _files(self, site: str, kind: str) -> list[str]:
        try:
            entries = self._objects.entries(site)
        except MachineError:
            raise
        except (OSError, FormatError):
            return []
        return [f"{site}/{entry.name}" for entry in entries if entry.name.startswith(f"{kind}-")]

    def _read(self, site: str, kind: str, schema: pl.Schema) -> pl.DataFrame:
        """The rows of every file of one kind."""
        frames = [pl.DataFrame(schema=schema)]
        for key in self._files(site, kind):
            try:
                data = self._objects.get(key, MAX_BYTES)
                if key != self.name(site, kind, data):
                    raise ValueError("written for other rows, or altered")
                frames.append(_parsed(data, schema))
            except MachineError:
                raise
            except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
                _log.warning("%s: computing it again (%s)", self.folder / key, error)
        return pl.concat(frames)

    def _add(
        self, site: str, kind: str, rows: Iterable[tuple[Any, ...]], schema: pl.Schema
    ) -> None:
        if not self._writable:
            return
        frame = pl.DataFrame(list(rows), schema=schema, orient="row")
        before = self._files(site, kind)
        if len(before) >= MANY_FILES:
            frame = pl.concat([self._read(site, kind, schema), frame])
        data = _written(frame)
        name = self.name(site, kind, data)
        try:
            self._objects.put(name, data)
            if len(before) >= MANY_FILES:
                self._objects.delete(key for key in before if key != name)
        except (OSError, LppError) as error:
            if self._writable:  # sites of a run are written side by side
                self._writable = False
                _log.warning("%s: results are not kept (%s)", self.folder, error)

    def name(self, site: str, kind: str, data: bytes) -> str:
        """Of a file of these bytes: the checksum covers whose rows they are of."""
        digest = checksum(f"{self._key}/{site}/{kind} ".encode() + data)
        return f"{site}/{kind}-{digest}.arrow"


def _parsed(data: bytes, schema: pl.Schema) -> pl.DataFrame:
    """The rows of a file. ValueError, ArrowException for what is none of ours."""
    check_declared(memoryview(data), rows=None)
    with pa.ipc.open_file(pa.py_buffer(data)) as reader:
        table = reader.read_all()
    table.validate(full=True)
    frame = pl.DataFrame(pl.from_arrow(table))
    if frame.schema != schema:
        raise ValueError(f"its columns are {frame.columns}")
    return frame


def _written(frame: pl.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _cell(row: Mapping[str, Any]) -> Cell:
    return Cell(*(row[name] for name in Cell._fields))


def _array(some: pl.Series | None) -> Any:
    return None if some is None else np.array(some.to_numpy())


def _version(metric: str) -> int | None:
    """Of a declared metric; None for one that is not declared any more."""
    return METRICS[metric].version if metric in METRICS else None
