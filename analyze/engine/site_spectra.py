"""The spectra of one site: read its rows once, merge position bands, solve; again for errors.

A row passes through `SiteReader.read`, `BandSums.add` (buffered by band), `ShiftedSums.add_rows`
(products, in a worker), `merged_bands` (moments of each prefix) and `summarize` (eigenvalues, in a
worker). The result is a `Summary`, from which every metric of a spectrum is computed.

Errors: a group is some prompts, by default consecutive ones. A second read sums one group after
another, and the moments without a group are a d x d subtraction. So all groups together cost the
products of one more read. Memory: the bands of one group, and of each group in progress, in
addition to the whole ones. If X(L) has fewer rows than columns, nothing is read again: the Gram
matrix without a group is a submatrix of the whole one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.analyze.engine.accumulate import (
    Band,
    BandSums,
    bands_between,
    bands_of,
    group_rows,
    merged_bands,
    read_groups,
    read_in_spans,
    rows_of,
)
from lpp.analyze.engine.row_values import RowValues
from lpp.analyze.engine.stored_moments import from_stored, moments_summary, stored_summaries
from lpp.analyze.engine.workers import Solves, Workers
from lpp.analyze.metrics.summary import Demand, Summary, summarize
from lpp.analyze.numerics.moments import Gram, Moments, Rows, ShiftedSums
from lpp.analyze.runs.cells import Cell, Integers, n_tokens
from lpp.analyze.runs.site_reader import SiteReader

Wanted = Mapping[Cell, Demand]
"""What to compute for each cell."""

Sums = Mapping[Band, ShiftedSums]
"""The sums of each band."""


def site_summaries(
    reader: SiteReader, wanted: Wanted, workers: Workers, rows: RowValues | None = None
) -> dict[Cell, Summary]:
    """The summary of each cell of a site; the same read fills `rows`.

    One read of the rows serves every first position, prefix and number of prompts. Cells with a
    group left out take one more read for each number of prompts. Cells that stored moments give for
    less come from these (`stored_moments.from_stored`), whatever else is read of the rows. Raises
    FormatError if the number of rows differs from that of the prompts' tokens.
    """
    held = from_stored(reader.run, wanted)
    found = stored_summaries(reader, {cell: wanted[cell] for cell in held}, workers)
    wanted = {cell: demand for cell, demand in wanted.items() if cell not in held}
    ends = sorted({*(cell.n_prompts for cell in wanted), *(rows.sizes if rows else ())})
    if not ends:
        return found
    given = rows.moment_cells if rows else set()
    needed = bands_of([*wanted, *given], reader.run.plan.prefixes)
    bands = BandSums(reader, needed, rows_of(needed, reader.lengths[: ends[-1]]), workers)
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

    given: cells whose moments `values` needs. last: no rows follow, so sums are made in place.
    """
    few = {cell for cell in (*wanted, *given) if _is_few(reader, bands, cell)}
    schedule = reader.run.plan.prefixes
    for whole in sorted({cell.whole for cell in few}):
        parts = bands_between(whole.first_position, whole.prefix, schedule)
        rows = bands.rows(parts)
        reader.check(whole, len(rows))
        of_whole = {cell: wanted[cell] for cell in few if cell.whole == whole and cell in wanted}
        stays = {cell: _stays(cell, parts, reader.lengths) for cell in of_whole}
        solves.add(_of_gram, rows, of_whole, stays)
        if values and whole in given:
            values.moments.append(partial(_moments_of_rows, whole, rows))
    many = {cell: demand for cell, demand in wanted.items() if cell not in few}
    rest = [cell for cell in given if cell not in few]
    if many or rest:
        sums = bands.sums(last=last)
        whole_summaries(reader, many, sums, solves)
        if without := {cell: demand for cell, demand in many.items() if cell.left_out}:
            _read_groups(reader, without, sums, solves)
        if values and rest:
            values.moments.append(partial(_moments_of_bands, rest, sums, schedule))


def _moments_of_rows(cell: Cell, rows: Rows) -> Iterator[tuple[Cell, Moments]]:
    yield cell, Moments.from_rows(rows)


def _moments_of_bands(
    cells: Collection[Cell], sums: Sums, ends: Sequence[int]
) -> Iterator[tuple[Cell, Moments]]:
    """Each of `cells`, all of one number of prompts, with its moments, valid until the next."""
    for first_position, some in _by(cells, lambda cell: cell.first_position).items():
        of_prefix = {cell.prefix: cell for cell in some}
        for prefix, moments in merged_bands(sums, ends, first_position, of_prefix):
            yield of_prefix[prefix], moments


def _is_few(reader: SiteReader, bands: BandSums, cell: Cell) -> bool:
    """Whether the whole cell has fewer rows than columns; all of them are then buffered."""
    return not bands.spans_closed and n_tokens(reader.lengths, cell.whole) < reader.width


def _of_gram(
    rows: Rows, wanted: Wanted, stays: Mapping[Cell, npt.NDArray[np.bool_]]
) -> dict[Cell, Summary]:
    """Summaries of cells whose whole cell has the rows `rows`, from one Gram matrix."""
    gram = Gram.from_rows(rows)
    return {
        cell: summarize(gram.only(stays[cell]) if cell.left_out else gram, demand)
        for cell, demand in wanted.items()
    }


def _stays(cell: Cell, bands: Sequence[Band], lengths: Integers) -> npt.NDArray[np.bool_]:
    """(N,) whether a row of the whole cell stays; rows by band, then prompt, then position."""
    edges = [cell.first_position, *(end for _, end in bands)]
    below = np.minimum.outer(edges, lengths[: cell.n_prompts])
    return np.concatenate([np.repeat(cell.stays, rows) for rows in np.diff(below, axis=0)])


def whole_summaries(
    reader: SiteReader,
    wanted: Wanted,
    sums: Sums,
    solves: Solves,
) -> None:
    """The summaries of those of `wanted` without a group left out."""
    whole = [cell for cell in wanted if not cell.left_out]
    for cell, moments in _moments_of_bands(whole, sums, reader.run.plan.prefixes):
        reader.check(cell, moments.n)
        # a copy: the merge goes on in the same matrix
        solves.add(moments_summary, cell, moments.copy(), wanted[cell])


def _read_groups(
    reader: SiteReader,
    wanted: Wanted,
    sums: Sums,
    solves: Solves,
) -> None:
    """The summaries of cells that leave out a group: a second read, one group after another."""
    groups = sorted({cell.left_out for cell in wanted})
    counts = np.max([group_rows(reader, group, [*sums]) for group in groups], axis=0)
    shifts = [one.shift for one in sums.values()]
    bands = BandSums(reader, [*sums], counts, solves.workers, shifts)
    schedule = reader.run.plan.prefixes
    for left_out in read_groups(reader, groups, bands):
        some = {cell: demand for cell, demand in wanted.items() if cell.left_out == left_out}
        group = bands.sums()  # once: it adds what is buffered to the sums in place
        for cells in _by(some, lambda cell: cell.first_position).values():
            solves.add(group_summaries, cells, sums, schedule, group)
        bands.clear()


def group_summaries(
    wanted: Wanted,
    sums: Sums,
    ends: Sequence[int],
    group: Sums,
) -> dict[Cell, Summary]:
    """The summaries of cells of one first position, without the rows of one group.

    sums, group: of all rows and of the group. ends: of the bands of the schedule.
    """
    of_prefix = {cell.prefix: cell for cell in wanted}
    first_position = next(iter(wanted)).first_position
    rest = merged_bands(sums, ends, first_position, of_prefix, without=group)
    return {
        of_prefix[prefix]: summarize(moments, wanted[of_prefix[prefix]]) for prefix, moments in rest
    }


def _by(wanted: Collection[Cell], key: Callable[[Cell], int]) -> dict[int, dict[Cell, Any]]:
    """Cells grouped by `key`, with their demand if `wanted` is a mapping."""
    found: dict[int, dict[Cell, Any]] = {}
    for cell in wanted:
        demand = wanted[cell] if isinstance(wanted, Mapping) else None
        found.setdefault(key(cell), {})[cell] = demand
    return found
