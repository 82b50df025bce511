"""What the cache keeps, as Arrow tables: spectra of cells, and numbers made from rows."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from lpp.analyze.engine.row_values import Values
from lpp.analyze.engine.summary import Summary
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.runs.cells import Cell
from lpp.store.format.commit_record import checksum

_CELL: Final = tuple(pa.field(name, pa.int32(), nullable=False) for name in Cell._fields)

SPECTRA: Final = pa.schema(
    [
        *_CELL,
        pa.field("matrix", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("total", pa.float64(), nullable=False),
        pa.field("sum_squares", pa.float64(), nullable=False),
        pa.field("variances", pa.list_(pa.float64()), nullable=False),
        pa.field("eigenvalues", pa.list_(pa.float64())),
    ]
)
"""A row per cell and matrix: what every spectral metric and its error is computed from."""

VALUES: Final = pa.schema(
    [
        *_CELL,
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""A row per cell and metric that needed the rows themselves. NaN: not defined there."""

_KEPT: Final = tuple(SPECTRA.names[len(_CELL) + 1 :])


def spectra_table(found: Mapping[Cell, Summary]) -> pa.Table:
    """`found` as `SPECTRA`."""
    rows = [
        {**cell._asdict(), "matrix": matrix, **{name: getattr(kept, name) for name in _KEPT}}
        for cell, matrix, kept in _spectra(found)
    ]
    return pa.table({name: [row[name] for row in rows] for name in SPECTRA.names}, schema=SPECTRA)


def summaries(table: pa.Table) -> dict[Cell, Summary]:
    """The other way round. ValueError for another table."""
    _check(table, SPECTRA)
    lists = {name: table[name].combine_chunks() for name in ("variances", "eigenvalues")}
    found: dict[Cell, dict[str, Spectrum]] = {}
    for index, row in enumerate(table.drop_columns(list(lists)).to_pylist()):
        arrays = {name: _array(column[index]) for name, column in lists.items()}
        kept = {name: row[name] for name in _KEPT if name not in lists}
        found.setdefault(_cell(row), {})[row["matrix"]] = Spectrum(**kept, **arrays)
    return {cell: Summary(**spectra) for cell, spectra in found.items()}


def summaries_checksum(found: Mapping[Cell, Summary]) -> str:
    """Of every number that is kept."""
    parts = []
    for cell, matrix, kept in _spectra(found):
        numbers = np.array([*cell, kept.n, kept.dim, kept.total, kept.sum_squares])
        values = b"-" if kept.eigenvalues is None else kept.eigenvalues.tobytes()
        parts += [matrix.encode(), numbers.tobytes(), kept.variances.tobytes(), values]
    return checksum(b"".join(parts))


def values_table(found: Values) -> pa.Table:
    """`found` as `VALUES`."""
    rows = [
        {**cell._asdict(), "metric": name, "value": value}
        for (cell, name), value in sorted(found.items())
    ]
    return pa.Table.from_pylist(rows, schema=VALUES)


def values(table: pa.Table) -> Values:
    """The other way round. ValueError for another table."""
    _check(table, VALUES)
    return {(_cell(row), row["metric"]): row["value"] for row in table.to_pylist()}


def values_checksum(found: Values) -> str:
    """Of every number that is kept."""
    parts = [
        name.encode() + np.array([*cell, value]).tobytes()
        for (cell, name), value in sorted(found.items())
    ]
    return checksum(b"".join(parts))


def _spectra(found: Mapping[Cell, Summary]) -> Iterator[tuple[Cell, str, Spectrum]]:
    """What is kept, in one order."""
    for cell in sorted(found):
        yield cell, "covariance", found[cell].covariance
        if (correlation := found[cell].correlation) is not None:
            yield cell, "correlation", correlation


def _cell(row: Mapping[str, Any]) -> Cell:
    return Cell(*(row[name] for name in Cell._fields))


def _array(some: pa.ListScalar) -> Any:
    return some.values.to_numpy() if some.is_valid else None


def _check(table: pa.Table, schema: pa.Schema) -> None:
    if not table.schema.equals(schema):
        raise ValueError(f"its columns are {table.schema.names}")
