"""The cache of computed numbers, under `analysis/` of the store.

    analysis/<run_id>/<shard set>/<site>/spectra-<checksum>.arrow
    analysis/<run_id>/<shard set>/<site>/leading-<checksum>.arrow
    analysis/<run_id>/<shard set>/<site>/values-<checksum>.arrow
    analysis/<run_id>/<shard set>/<site>/estimates-<checksum>.arrow

Its files (see `kept_files`) have spectra of cells, from which every metric of a spectrum is
computed, leading eigenvectors, which comparisons of runs need, values of metrics that need rows,
and estimates of these, which are read in place of the others where all of them are there. None
depends on the context, because X(L) does not. `entropy/entropy-*` has rows of the table `entropy`.
A reader takes all files of a kind together. New shards have another folder. Each row has the
version of the code that computed it (the arithmetic of spectra, or the metric); rows of other
versions are ignored.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.engine.row_values import Values
from lpp.analyze.metrics.registry import METRICS, PAPER_NAMES, SINKS
from lpp.analyze.metrics.summary import Summary
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import Groups
from lpp.store.format.commit_record import checksum
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.runs.read import Run
from lpp.store.shared.kept_files import KeptFiles

KERNEL_VERSION: Final = 5
"""Version of the arithmetic of spectra. Raise it if a change could change a digit of a cached
number. For a metric that needs rows, raise its own `Metric.version`."""

_REPLICATE_VERSION: Final = 1
"""The same of what replicates have of their own, below 100."""

CELL: Final = pl.Schema(
    {
        "n_prompts": pl.Int32(),
        "prefix": pl.Int32(),
        "left_out": pl.List(pl.Int32()),
        "first_position": pl.Int32(),
    }
)
"""The fields of a cell. left_out: the ends of the runs of prompts in `Cell.excluded`, in order."""

ARE_CELLS: Final = pl.all_horizontal(
    *(pl.col(name).is_not_null() for name in CELL),
    pl.col("left_out").list.len() % 2 == 0,
    pl.col("left_out").list.drop_nulls().list.len() == pl.col("left_out").list.len(),
)
"""Whether a row has the fields of a cell; a file that was not written here may hold others."""

_NUMBERS: Final = {
    "n": pl.Int64,
    "dim": pl.Int32,
    **dict.fromkeys(("total", "sum_squares", "mean_norm"), pl.Float64),
}
_LISTS: Final = ("variances", "eigenvalues")

_SPECTRA: Final = pl.Schema(
    [
        *CELL.items(),
        ("version", pl.Int32()),
        ("matrix", pl.String()),
        *((name, kind()) for name, kind in _NUMBERS.items()),
        *((name, pl.List(pl.Float64())) for name in _LISTS),
    ]
)
"""A row per cell and matrix; eigenvalues are null if no metric needed them."""

_WHOLE: Final = pl.all_horizontal(
    pl.exclude("eigenvalues").is_not_null(),
    pl.col("n") >= 0,
    pl.col("variances").list.len() == pl.col("dim"),
    pl.col("eigenvalues").list.len().fill_null(pl.min_horizontal("n", "dim"))
    == pl.min_horizontal("n", "dim"),
)
"""Whether a row is a spectrum; a file that was not written here may hold others."""

_LEADING: Final = pl.Schema(
    [
        *CELL.items(),
        ("version", pl.Int32()),
        ("dim", pl.Int32()),
        ("vectors", pl.List(pl.Float64())),
    ]
)
"""A row per cell: the leading eigenvectors of its covariance, one after the other."""

_VECTORS: Final = pl.all_horizontal(
    pl.col("vectors").list.drop_nulls().list.len() == pl.col("vectors").list.len(),
    pl.col("dim") > 0,
    pl.col("vectors").list.len() % pl.col("dim") == 0,
)
"""Whether a row holds whole eigenvectors; a file that was not written here may hold others."""

VALUES: Final = pl.Schema(
    [*CELL.items(), ("version", pl.Int32()), ("metric", pl.String()), ("value", pl.Float64())]
)
"""A row per cell and metric that needs the rows themselves. NaN: the metric is undefined."""


_ESTIMATES: Final = pl.Schema(
    {
        **dict.fromkeys(("n_prompts", "prefix", "first_position"), pl.Int32()),
        **dict.fromkeys(("metric", "version", "groups"), pl.String()),
        **dict.fromkeys(Estimate._fields[:4], pl.Float64()),
        "parts": pl.List(pl.Float64()),
    }
)
"""A row per whole cell and metric of `ESTIMATED`: its `Estimate` over `groups` of prompts."""

ESTIMATED: Final = frozenset((*PAPER_NAMES, *SINKS))
"""Metrics whose estimates are kept: every profile has them. Not those of a user, who would have to
raise a version with each change."""


class Cache:
    """Cached numbers of one run with its currently committed shards."""

    def __init__(self, root: Place, run: Run) -> None:
        self._files = KeptFiles(root, f"{run.id}/{run.fingerprint}")
        self.folder = self._files.folder

    def summaries(
        self, site: str, replicates: Collection[Cell] = (), *, leading: bool = False
    ) -> dict[Cell, Summary]:
        """Cached spectra of `site`, and the leading eigenvectors where `leading`.

        replicates: cells of which those for an error are wanted, with eigenvalues of fewer digits.
        A damaged or foreign file is ignored, with a log line.
        """
        rows = self._files.rows(site, "spectra", _SPECTRA).filter(
            ARE_CELLS, _WHOLE, pl.col("version").is_in([_of_spectra(False), _of_spectra(True)])
        )
        replicates = {*replicates}
        spectra: dict[Cell, dict[str, Spectrum]] = {}
        lists = {name: rows[name] for name in _LISTS}
        for k, row in enumerate(rows.drop(_LISTS).iter_rows(named=True)):
            arrays = {name: _array(column[k]) for name, column in lists.items()}
            spectrum = Spectrum(**{name: row[name] for name in _NUMBERS}, **arrays)
            cell = cell_of(row)
            if row["version"] != _of_spectra(cell in replicates):
                continue
            of_cell = spectra.setdefault(cell, {})
            held = of_cell.get(row["matrix"])
            if held is None or held.eigenvalues is None:
                of_cell[row["matrix"]] = spectrum
        vectors = self._leading(site) if leading else {}
        return {
            cell: Summary(**by_matrix, leading=vectors.get(cell), replicate=cell in replicates)
            for cell, by_matrix in spectra.items()
            if "covariance" in by_matrix
        }

    def _leading(self, site: str) -> dict[Cell, Floats]:
        """(d, k) cached eigenvectors of cells."""
        rows = self._files.rows(site, "leading", _LEADING).filter(
            ARE_CELLS, _VECTORS, version=KERNEL_VERSION
        )
        return {
            cell_of(row): np.array(row["vectors"], dtype=np.float64).reshape(-1, row["dim"]).T
            for row in rows.iter_rows(named=True)
        }

    def keep_summaries(self, site: str, summaries: Mapping[Cell, Summary]) -> None:
        """Add `summaries` to the cache. If the store cannot be written, log one line."""
        rows = [
            (
                *cell_row(cell),
                _of_spectra(summary.replicate),
                matrix,
                *(getattr(spectrum, name) for name in (*_NUMBERS, *_LISTS)),
            )
            for cell, summary in summaries.items()
            for matrix in ("covariance", "correlation")
            if (spectrum := getattr(summary, matrix)) is not None
        ]
        self._add(site, "spectra", rows, _SPECTRA)
        vectors = [
            (*cell_row(cell), KERNEL_VERSION, len(leading), leading.T.ravel())
            for cell, summary in summaries.items()
            if (leading := summary.leading) is not None
        ]
        if vectors:
            self._add(site, "leading", vectors, _LEADING)

    def values(self, site: str) -> Values:
        """Cached values of metrics that need the rows of `site`."""
        rows = self._files.rows(site, "values", VALUES).filter(ARE_CELLS)
        rows = rows.drop_nulls(["metric", "value"])
        return {
            (cell_of(row), row["metric"]): row["value"]
            for row in rows.iter_rows(named=True)
            if _version(row["metric"]) == row["version"]
        }

    def keep_values(self, site: str, values: Values) -> None:
        """Add `values` to the cache."""
        rows = [
            (*cell_row(cell), _version(metric), metric, value)
            for (cell, metric), value in values.items()
        ]
        self._add(site, "values", rows, VALUES)

    def estimates(self, site: str) -> dict[tuple[Cell, str, str], Estimate]:
        """Cached estimates of whole cells, by cell, metric and `groups_name`."""
        found = {}
        for row in self._files.tuples(site, "estimates", _ESTIMATES):
            size, prefix, first, metric, version, groups, value, stderr, low, high, parts = row
            if metric in ESTIMATED and version == _versions(metric):
                cell = Cell(size, prefix, first_position=first)
                found[cell, metric, groups] = Estimate(value, stderr, low, high, tuple(parts))
        return found

    def keep_estimates(
        self, site: str, estimates: Mapping[tuple[Cell, str, str], Estimate]
    ) -> None:
        """Add `estimates` to the cache."""
        rows = [
            (c.n_prompts, c.prefix, c.first_position, metric, _versions(metric), groups, *estimate)
            for (c, metric, groups), estimate in estimates.items()
        ]
        self._add(site, "estimates", rows, _ESTIMATES)

    def entropies(self, schema: pl.Schema) -> Iterator[tuple[Any, ...]]:
        """Cached rows of the table `entropy`, with the columns of `schema`."""
        return self._files.tuples("entropy", "entropy", schema)

    def keep_entropies(self, rows: Iterable[tuple[Any, ...]], schema: pl.Schema) -> None:
        """Add such rows to the cache."""
        self._add("entropy", "entropy", rows, schema)

    def _add(
        self, site: str, kind: str, rows: Iterable[tuple[Any, ...]], schema: pl.Schema
    ) -> None:
        self._files.add(site, kind, pl.DataFrame(list(rows), schema=schema, orient="row"))

    def copy(self, site: str, other: "Cache") -> None:
        """Copy to `other` the numbers of `site` that this cache would answer with."""
        target = objects_at(other.folder)
        for kind, data in self._files.files(site):
            target.put(other._files.name(site, kind, data), data)


def groups_name(groups: Groups) -> str:
    """What tells `groups` from others of the same run."""
    if isinstance(groups, int):
        return f"{groups}"
    return f"{groups.groups} of {checksum(groups.of.astype(np.int64).tobytes())}"


def cell_row(cell: Cell) -> tuple[Any, ...]:
    """The values of the columns `CELL`."""
    ends = [end for span in cell.excluded for end in span]
    return cell.n_prompts, cell.prefix, ends, cell.first_position


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell of a row with the columns `CELL`."""
    ends = row["left_out"]
    spans = tuple(zip(ends[::2], ends[1::2], strict=True))
    return Cell(row["n_prompts"], row["prefix"], spans, row["first_position"])


def _of_spectra(replicate: bool) -> int:
    """Version of the arithmetic of a spectrum."""
    return 100 * KERNEL_VERSION + _REPLICATE_VERSION if replicate else KERNEL_VERSION


def _array(values: pl.Series | None) -> Any:
    return None if values is None else np.array(values.to_numpy())


def _versions(metric: str) -> str:
    """Versions of all arithmetic behind an estimate of a metric."""
    return f"{_of_spectra(True)}.{METRICS[metric].version}"


def _version(metric: str) -> int | None:
    """Version of a metric; None if it is no longer declared."""
    return METRICS[metric].version if metric in METRICS else None
