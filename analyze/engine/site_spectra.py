"""The spectra of one site: read its rows once, merge position bands, solve; again for errors.

A row passes through `SiteReader.read`, `BandSums.add` (buffered by band), `ShiftedSums.add_rows`
(products, in a worker), `merged` (over spans), `merged_bands` (moments of each prefix) and
`summarize` (eigenvalues, in a worker). The result is a `Summary`, from which every metric of a
spectrum is computed.

Errors: a group is some prompts, by default consecutive ones. A second read sums one group after
another, and the moments without a group are a d x d subtraction. So all groups together cost the
products of one more read. Memory: the bands of one group, and of each group in progress, in
addition to the whole ones. If X(L) has fewer rows than columns, nothing is read again: the Gram
matrix without a group is a submatrix of the whole one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.analyze.engine.accumulate import (
    Band,
    Span,
    Sums,
    band_shifts,
    bands_between,
    bands_of,
    divided,
    merged,
    merged_bands,
    span_ends,
    span_rows,
    span_sums,
)
from lpp.analyze.engine.row_values import RowValues
from lpp.analyze.engine.workers import Call, Workers
from lpp.analyze.metrics.summary import Demand, Summary, summarize
from lpp.analyze.numerics.moments import Gram, Moments, Rows
from lpp.analyze.runs.cells import Cell, Integers, n_tokens
from lpp.analyze.runs.groups import Spans
from lpp.analyze.runs.rows.site_reader import SiteReader


def site_summaries(
    reader: SiteReader,
    demands: Mapping[Cell, Demand],
    workers: Workers,
    values: RowValues | None = None,
) -> dict[Cell, Summary]:
    """The summary of each cell of a site; the same read fills `values`.

    One read of the rows serves every first position, prefix and number of prompts. Cells with a
    group left out take one more read for each number of prompts. Raises FormatError if the number
    of rows differs from that of the prompts' tokens.
    """
    by_cell: dict[Cell, Summary] = {}
    for summaries in workers.in_order(_solves(reader, demands, workers, values)):
        by_cell |= summaries
    return by_cell


def _solves(
    reader: SiteReader, demands: Mapping[Cell, Demand], workers: Workers, values: RowValues | None
) -> Iterator[Call]:
    """Calls that give the summaries of all cells, each made once its rows are read."""
    given = values.moment_cells if values else set()
    cells = {*demands, *given}
    sizes = {cell.n_prompts for cell in cells} | (values.sizes if values else set())
    if not sizes:
        return
    ends = span_ends(reader.lengths[: max(sizes)], span_rows(reader.width))
    few = {cell for cell in cells if _is_few(reader, cell, ends)}
    schedule = reader.run.plan.prefixes
    bands = bands_of(cells, schedule)
    spans = [_span(prompts, few, cells - few) for prompts in divided(((0, max(sizes)),), ends)]
    if len(spans) > 1:  # every span has the shifts of the first, which needs no earlier sum
        shifts = band_shifts(reader, bands, ends[0])
        spans = [spans[0], *(replace(span, shifts=shifts) for span in spans[1:])]
    total: Sums = {}
    sinks = [values] if values else []
    for part in span_sums(workers, spans, reader, bands, *sinks):
        for whole, rows in part.rows.items():
            reader.check(whole, len(rows))
            of_whole = {c: demands[c] for c in few if c.whole == whole and c in demands}
            parts = bands_between(whole.first_position, whole.prefix, schedule)
            stays = {cell: _stays(cell, parts, reader.lengths) for cell in of_whole}
            if of_whole:
                yield _of_gram, rows, of_whole, stays
            if values and whole in given:
                values.moments.append(partial(_moments_of_rows, whole, rows))
        if not part.sums:
            continue
        sums = merged(total, part.sums)
        if part.end in ends:
            total = sums
        here = {cell for cell in cells - few if cell.n_prompts == part.end}
        many = {cell: demands[cell] for cell in here if cell in demands}
        whole_cells = [cell for cell in many if not cell.excluded]
        for cell, moments in _moments_of_bands(whole_cells, sums, schedule):
            reader.check(cell, moments.n)
            # a copy: the merge goes on in the same matrix
            yield _of_moments, cell, moments.copy(), many[cell]
        if without := {cell: many[cell] for cell in many if cell.excluded}:
            yield from _without_groups(reader, without, sums, ends, workers)
        if values and (rest := here & given):
            values.moments.append(partial(_moments_of_bands, rest, sums, schedule))


def _span(prompts: Spans, few: Collection[Cell], many: Collection[Cell]) -> Span:
    """A span of all prompts, which stops for sums where `many` need them, and at its end if there
    are further ones; in the first span, also for the rows of `few`.
    """
    ((first, end),) = prompts
    sizes = {cell.n_prompts for cell in many}
    stops = {size for size in sizes if first < size <= end}
    stops |= {end} if end < max(sizes, default=0) else set()
    whole = {cell.whole for cell in few} if first == 0 else set()
    return Span(prompts, stops=tuple(sorted(stops)), few=tuple(sorted(whole)))


def _of_moments(cell: Cell, moments: Moments, demand: Demand) -> dict[Cell, Summary]:
    """The summary of one cell, as a task for a worker."""
    return {cell: summarize(moments, demand)}


def _moments_of_rows(cell: Cell, rows: Rows) -> Iterator[tuple[Cell, Moments]]:
    yield cell, Moments.from_rows(rows)


def _moments_of_bands(
    cells: Collection[Cell], sums: Sums, ends: Sequence[int]
) -> Iterator[tuple[Cell, Moments]]:
    """Each of `cells`, all of one number of prompts, with its moments, valid until the next."""
    for first_position, of_first in _by(cells, lambda cell: cell.first_position).items():
        of_prefix = {cell.prefix: cell for cell in of_first}
        for prefix, moments in merged_bands(sums, ends, first_position, of_prefix):
            yield of_prefix[prefix], moments


def _is_few(reader: SiteReader, cell: Cell, ends: Sequence[int]) -> bool:
    """Whether the whole cell has fewer rows than columns and lies in the first span, which buffers
    them all.
    """
    inside = cell.n_prompts <= min(ends, default=cell.n_prompts)
    return inside and n_tokens(reader.lengths, cell.whole) < reader.width


def _of_gram(
    rows: Rows, demands: Mapping[Cell, Demand], stays: Mapping[Cell, npt.NDArray[np.bool_]]
) -> dict[Cell, Summary]:
    """Summaries of cells whose whole cell has the rows `rows`, from one Gram matrix."""
    gram = Gram.from_rows(rows)
    return {
        cell: summarize(gram.only(stays[cell]) if cell.excluded else gram, demand)
        for cell, demand in demands.items()
    }


def _stays(cell: Cell, bands: Sequence[Band], lengths: Integers) -> npt.NDArray[np.bool_]:
    """(N,) whether a row of the whole cell stays; rows by band, then prompt, then position."""
    edges = [cell.first_position, *(end for _, end in bands)]
    below = np.minimum.outer(edges, lengths[: cell.n_prompts])
    return np.concatenate([np.repeat(cell.stays, rows) for rows in np.diff(below, axis=0)])


def _without_groups(
    reader: SiteReader,
    demands: Mapping[Cell, Demand],
    sums: Sums,
    ends: Sequence[int],
    workers: Workers,
) -> Iterator[Call]:
    """Calls for cells that leave out a group: a second read, one group after another.

    sums: of all groups. ends: of the spans.
    """
    groups = sorted({cell.excluded for cell in demands})
    shifts = [total.shift for total in sums.values()]
    spans = [
        [Span(part, stops=(part[-1][1],), shifts=shifts) for part in divided(group, ends)]
        for group in groups
    ]
    all_spans = [span for of_group in spans for span in of_group]
    parts = span_sums(workers, all_spans, reader, [*sums])
    for excluded, of_group in zip(groups, spans, strict=True):
        group = reduce(merged, (part.sums for part in islice(parts, len(of_group))))
        cells = {cell: demand for cell, demand in demands.items() if cell.excluded == excluded}
        for of_first in _by(cells, lambda cell: cell.first_position).values():
            yield _of_group, of_first, sums, reader.run.plan.prefixes, group


def _of_group(
    demands: Mapping[Cell, Demand], sums: Sums, ends: Sequence[int], group: Sums
) -> dict[Cell, Summary]:
    """The summaries of cells of one first position, without the rows of one group.

    sums, group: of all rows and of the group. ends: of the bands of the schedule.
    """
    of_prefix = {cell.prefix: cell for cell in demands}
    first_position = next(iter(demands)).first_position
    rest = merged_bands(sums, ends, first_position, of_prefix, without=group)
    return {
        of_prefix[prefix]: summarize(moments, demands[of_prefix[prefix]])
        for prefix, moments in rest
    }


def _by(cells: Collection[Cell], key: Callable[[Cell], int]) -> dict[int, dict[Cell, Any]]:
    """Cells grouped by `key`, with their demand if `cells` is a mapping."""
    grouped: dict[int, dict[Cell, Any]] = {}
    for cell in cells:
        demand = cells[cell] if isinstance(cells, Mapping) else None
        grouped.setdefault(key(cell), {})[cell] = demand
    return grouped
