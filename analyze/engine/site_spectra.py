"""The spectra of one site: read its rows once, merge position bands, solve; again for errors.

The way of a row: `SiteReader.read` -> `BandSums.add` (its band's buffer) -> `ShiftedSums.add_rows`
(products, by a worker) -> `merged_bands` (the moments of each prefix) -> `summarize` (eigenvalues,
by a worker) -> a `Summary`, from which every metric of a spectrum is computed.

Errors: a group is a run of prompts, so a second read takes the groups in turn, and what is left
of a prefix without one is a d x d subtraction: the products of one more read in all, not of one
for each group. Memory: the bands of one group and of each that is under way, beside the whole
ones. Where X(L) has fewer rows than columns nothing is read again: the Gram matrix without a group
is a part of the whole one.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.analyze.engine.accumulate import (
    BandSums,
    band_edges,
    merged_bands,
    read_in_spans,
)
from lpp.analyze.engine.row_values import RowValues
from lpp.analyze.engine.stored_moments import moments_summary, serves, stored_summaries
from lpp.analyze.engine.workers import Solves, Workers
from lpp.analyze.metrics.summary import Demand, Summary, summarize
from lpp.analyze.numerics.moments import Gram, Moments, Rows, ShiftedSums
from lpp.analyze.runs.cells import Cell, Integers, n_tokens
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.arrays.moments import band_counts

Wanted = Mapping[Cell, Demand]
"""What is to be computed of each cell."""

Gap = tuple[int, int]
"""First prompt that is left out, and the one after the last."""


def site_summaries(
    reader: SiteReader, wanted: Wanted, workers: Workers, rows: RowValues | None = None
) -> dict[Cell, Summary]:
    """The summary that is wanted of each cell of a site; `rows` is filled on the way.

    One read of its rows serves every first position, prefix and number of prompts. Cells with a
    group left out cost one more read for each number of prompts. Moments that capture stored serve
    instead of rows where they can and cost less (`stored_moments`); `rows` are read all the same.
    Raises FormatError when the rows are not those that the prompts say.
    """
    found: dict[Cell, Summary] = {}
    if not (rows and rows.moment_cells) and serves(reader.run, wanted):
        found, wanted = stored_summaries(reader, wanted, workers), {}
    ends = sorted({*(cell.n_prompts for cell in wanted), *(rows.sizes if rows else ())})
    if not ends:
        return found
    given = rows.moment_cells if rows else set()
    edges = band_edges([*wanted, *given])
    counts = band_counts(reader.lengths[: ends[-1]], edges)
    bands = BandSums(reader, edges, counts, workers)
    solves = Solves(workers)
    for n_prompts in read_in_spans(reader, ends, bands, *([rows] if rows else [])):
        some = {cell: demand for cell, demand in wanted.items() if cell.n_prompts == n_prompts}
        cells = {cell for cell in given if cell.n_prompts == n_prompts}
        if some or cells:
            last = n_prompts == ends[-1]
            _of_size(reader, some, bands, solves, given=cells, values=rows, last=last)
    return found | solves.all()


def _of_size(
    reader: SiteReader,
    wanted: Wanted,
    bands: BandSums,
    solves: Solves,
    *,
    given: Collection[Cell],
    values: RowValues | None,
    last: bool,
) -> None:
    """The summaries of cells of one number of prompts, whose rows are in `bands`.

    given: cells whose moments `values` is given. last: no more rows come, so the sums may be made
    in place.
    """
    few = {cell for cell in (*wanted, *given) if _is_few(reader, bands, cell)}
    for whole in sorted({cell.whole for cell in few}):
        rows = bands.rows(whole)
        reader.check(whole, len(rows))
        of_whole = {cell: wanted[cell] for cell in few if cell.whole == whole and cell in wanted}
        stays = {cell: _stays(cell, bands.edges, reader.lengths) for cell in of_whole}
        solves.add(_of_gram, rows, of_whole, stays)
        if values and whole in given:
            values.moments.append(partial(_moments_of_rows, whole, rows))
    many = {cell: demand for cell, demand in wanted.items() if cell not in few}
    rest = [cell for cell in given if cell not in few]
    if many or rest:
        sums = bands.sums(last=last)
        whole_summaries(reader, many, sums, bands.edges, solves)
        for groups, cells in _by(many, lambda cell: cell.groups).items():
            if groups:
                _read_groups(reader, cells, sums, bands.edges, solves)
        if values and rest:
            values.moments.append(partial(_moments_of_bands, rest, sums, bands.edges))


def _moments_of_rows(cell: Cell, rows: Rows) -> Iterator[tuple[Cell, Moments]]:
    yield cell, Moments.from_rows(rows)


def _moments_of_bands(
    cells: Collection[Cell], sums: Sequence[ShiftedSums], edges: Sequence[int]
) -> Iterator[tuple[Cell, Moments]]:
    """Each of `cells`, of one number of prompts, with its moments, valid until the next."""
    for first_position, some in _by(cells, lambda cell: cell.first_position).items():
        of_prefix = {cell.prefix: cell for cell in some}
        for prefix, moments in merged_bands(sums, edges, first_position, of_prefix):
            yield of_prefix[prefix], moments


def _is_few(reader: SiteReader, bands: BandSums, cell: Cell) -> bool:
    """Whether the whole of a cell has fewer rows than columns, which all wait."""
    return not bands.spans_closed and n_tokens(reader.lengths, cell.whole) < reader.width


def _of_gram(
    rows: Rows, wanted: Wanted, stays: Mapping[Cell, npt.NDArray[np.bool_]]
) -> dict[Cell, Summary]:
    """Cells whose whole is `rows`: each is a part of one Gram matrix."""
    gram = Gram.from_rows(rows)
    return {
        cell: summarize(gram.only(stays[cell]) if cell.groups else gram, demand)
        for cell, demand in wanted.items()
    }


def _stays(cell: Cell, edges: Sequence[int], lengths: Integers) -> npt.NDArray[np.bool_]:
    """(N,) which rows of the whole cell stay; they lie by band, then prompt, then position."""
    first, end = cell.gap
    ends = [edge for edge in edges if cell.first_position < edge <= cell.prefix]
    stays = np.ones(cell.n_prompts, dtype=bool)
    stays[first:end] = False
    below = np.minimum.outer([cell.first_position, *ends], lengths[: cell.n_prompts])
    return np.concatenate([np.repeat(stays, rows) for rows in np.diff(below, axis=0)])


def whole_summaries(
    reader: SiteReader,
    wanted: Wanted,
    sums: Sequence[ShiftedSums],
    edges: Sequence[int],
    solves: Solves,
) -> None:
    """The summaries of those of `wanted` that leave nothing out. sums: of each band, (B,)."""
    whole = [cell for cell in wanted if not cell.groups]
    for cell, moments in _moments_of_bands(whole, sums, edges):
        reader.check(cell, moments.n)
        # a copy: the merge goes on in the same matrix
        copy = Moments(moments.n, moments.mean, moments.scatter.copy(), moments.noise)
        solves.add(moments_summary, cell, copy, wanted[cell])


def _read_groups(
    reader: SiteReader,
    wanted: Wanted,
    sums: Sequence[ShiftedSums],
    edges: Sequence[int],
    solves: Solves,
) -> None:
    """The summaries of cells without a group, of one number of groups: a second read."""
    gaps = groups_of(wanted)
    counts = np.max([band_counts(reader.lengths[a:b], edges) for a, b in gaps], axis=0)
    shifts = [one.shift for one in sums]
    bands = BandSums(reader, edges, counts, solves.workers, shifts)
    ends = [end for _, end in gaps]
    for gap, _ in zip(gaps, read_in_spans(reader, ends, bands), strict=True):
        some = {cell: demand for cell, demand in wanted.items() if cell.gap == gap}
        for cells in _by(some, lambda cell: cell.first_position).values():
            solves.add(group_summaries, cells, sums, edges, bands.sums())
        bands.clear()


def groups_of(cells: Iterable[Cell]) -> list[Gap]:
    """Every group of the jackknife that `cells` leave groups out for: they are read in turn."""
    one = next(iter(cells))
    return [part.gap for part in one.whole.parts(one.groups)]


def group_summaries(
    wanted: Wanted,
    sums: Sequence[ShiftedSums],
    edges: Sequence[int],
    group: Sequence[ShiftedSums],
) -> dict[Cell, Summary]:
    """The summaries of cells of one first position without the rows of one group, (B,) sums."""
    of_prefix = {cell.prefix: cell for cell in wanted}
    first_position = next(iter(wanted)).first_position
    rest = merged_bands(sums, edges, first_position, of_prefix, without=group)
    return {
        of_prefix[prefix]: summarize(moments, wanted[of_prefix[prefix]]) for prefix, moments in rest
    }


def _by(wanted: Collection[Cell], key: Callable[[Cell], int]) -> dict[int, dict[Cell, Any]]:
    """Cells parted by `key`, with what is wanted of them where `wanted` says it."""
    found: dict[int, dict[Cell, Any]] = {}
    for cell in wanted:
        demand = wanted[cell] if isinstance(wanted, Mapping) else None
        found.setdefault(key(cell), {})[cell] = demand
    return found
