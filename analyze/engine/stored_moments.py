"""Moments of cells from the moments that capture stored: if there are no rows, or rows cost more.

Stored moments are divided by shard and prefix band. A cell can be computed if its prompts are the
first shards, its prefix is the end of a band, and each group of its jackknife is a set of whole
shards. Then everything that needs a scatter matrix comes from merges, as accurately as from rows. A
cell without a group is the merge of all other groups: nothing is subtracted, so nothing cancels.

One read of each (shard, band) serves every prefix and group of one number of prompts. Memory:
triangles of 4 d^2 bytes, one for each of the G groups and log2(G) + 1 more, and a whole matrix:
1.3 GB at d = 4,096 with ten groups. The cost is d x d additions, where rows cost products.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from lpp.analyze.engine.workers import Call, Workers
from lpp.analyze.metrics.summary import Demand, Summary, summarize
from lpp.analyze.numerics.moments import ROUNDING, Floats, Moments
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import Groups, Spans, runs_of
from lpp.analyze.runs.moments_held import listed_numbers
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.store.arrays.moments import ROUNDING as STORED
from lpp.store.arrays.moments import BandMoments, packed_size
from lpp.store.errors import ErrorKind, InputError
from lpp.store.runs.read import Run
from lpp.store.runs.shards import Shard

PRODUCT_ROWS: Final = 256
"""Reading and multiplying this many rows takes as long as reading and adding one band of a shard:
33 microseconds per row and 9 milliseconds per band at d = 576 on one core
(`benchmarks/moments_cost.py`). Both grow with d^2."""


@dataclass(slots=True)
class Packed:
    """Count, mean and scatter matrix of some rows; the upper triangle of the matrix, row by row."""

    n: int
    mean: Floats
    """(d,)"""
    scatter: Floats
    """(d (d + 1) / 2,)"""

    @classmethod
    def empty(cls, dim: int) -> Self:
        """No rows of width `dim`."""
        return cls(0, np.zeros(dim), np.zeros(packed_size(dim)))

    def add(self, other: "Packed | BandMoments") -> None:
        """Merge `other` into this one in place, as `Moments.add` does."""
        if other.n == 0:
            return
        total = self.n + other.n
        delta = other.mean - self.mean
        self.scatter += other.scatter
        if self.n:
            scaled = delta * np.sqrt(self.n * other.n / total)
            start = 0
            for row in range(len(scaled)):
                end = start + len(scaled) - row
                self.scatter[start:end] += scaled[row] * scaled[row:]
                start = end
        # if this one is empty, take the other's mean exactly, without rounding
        self.mean += delta * (other.n / total) if self.n else delta
        self.n = total

    def whole(self, rounding: float) -> Moments:
        """As `Moments`, with the whole matrix. rounding: relative, of the stored entries."""
        dim = len(self.mean)
        scatter = np.empty((dim, dim))
        start = 0
        for row in range(dim):
            end = start + dim - row
            scatter[row, row:] = self.scatter[start:end]
            scatter[row:, row] = self.scatter[start:end]
            start = end
        # every stored triangle is within `rounding` of its norm, and norms are below traces
        noise = (ROUNDING + rounding) * float(np.trace(scatter))
        return Moments(self.n, self.mean.copy(), scatter, noise)  # this one goes on changing


def from_stored(run: Run, site: str, cells: Collection[Cell]) -> set[Cell]:
    """The `cells` of `site` whose spectra are computed from stored moments.

    All if the run keeps no rows. If it keeps both, whichever is cheaper: a row costs d^2
    multiply-adds, a band of a shard about d^2 additions and reading 4 d^2 bytes. Matrices rounded
    to float32 are not used if there are rows. What else is requested has no part in the choice,
    because both ways differ in the last digits. If the rows are lossy, moments wherever there are:
    they are sums of the rows as computed.
    """
    plan = run.plan
    if not plan.keeps_rows:
        return {*cells}
    if plan.keeps_moments and plan.is_lossy(site):
        return {cell for cell in cells if holds(run, cell)}
    if not plan.keeps_moments or plan.moments_dtype != "float64":
        return set()
    bands = len(run.shards) * len(run.plan.moment_ends)
    if plan.prompts.tokens <= PRODUCT_ROWS * bands:
        return set()
    return {cell for cell in cells if holds(run, cell)}


def holds(run: Run, cell: Cell) -> bool:
    """Whether `cell` and its groups begin and end at ends of stored bands and shards."""
    edges, ends = {*run.plan.shards}, run.plan.moment_ends
    inside = cell.prefix in ends and cell.first_position in (0, *ends)
    group = {*itertools.chain.from_iterable(cell.excluded)}
    return inside and cell.n_prompts in edges and group <= edges


def parts_held(run: Run, cell: Cell, groups: Groups) -> bool:
    """Whether each of the groups of `cell` is a set of whole shards."""
    return all(holds(run, part) for part in cell.parts(groups))


def stored_summaries(
    reader: SiteReader, demands: Mapping[Cell, Demand], workers: Workers
) -> dict[Cell, Summary]:
    """The summary of each cell of a site, as of `site_summaries`, from stored moments.

    Raises InputError for a cell that stored moments do not give, FormatError if their number of
    rows differs from that of the prompts' tokens.
    """
    check_held(reader.run, demands)
    by_cell: dict[Cell, Summary] = {}
    for summaries in workers.in_order(_solves(reader, demands)):
        by_cell |= summaries
    return by_cell


def _solves(reader: SiteReader, demands: Mapping[Cell, Demand]) -> Iterator[Call]:
    by_size: dict[int, list[Cell]] = defaultdict(list)
    for cell in sorted(demands):
        by_size[cell.n_prompts].append(cell)
    for size, cells in by_size.items():
        for groups, served in _divisions(size, cells):
            for cell, moments in _of_division(reader, size, groups, served):
                reader.check(cell, moments.n)
                yield moments_summary, cell, moments, demands[cell]


def moments_summary(cell: Cell, moments: Moments, demand: Demand) -> dict[Cell, Summary]:
    """The summary of one cell, as a task for a worker."""
    return {cell: summarize(moments, demand)}


def check_held(run: Run, cells: Collection[Cell]) -> None:
    """Raise InputError unless stored moments give each of `cells`."""
    if missing := [cell for cell in cells if not holds(run, cell)]:
        cell = missing[0]
        groups = ", without some of them" if cell.excluded else ""
        begin = f" from position {cell.first_position} on" if cell.first_position else ""
        raise InputError(
            f"run {run.id} keeps moments, and has none of {cell.n_prompts} prompts{begin} below "
            f"position {cell.prefix}{groups}: only of {listed_numbers(run.plan.shards[1:])} "
            f"prompts below {listed_numbers(run.plan.moment_ends)}. Ask for these, or capture "
            "again with --keep both.",
            kind=ErrorKind.NOT_FOUND,
        )


def _divisions(size: int, cells: Sequence[Cell]) -> Iterator[tuple[list[Spans], list[Cell]]]:
    """Cells of `size` prompts, by division of the prompts into groups; whole cells come first.

    One read serves a division. Its groups are disjoint and hold all prompts: of the groups that
    cells leave out, those that go together, and one of the other prompts if there are any.
    """
    waiting = sorted({cell.excluded for cell in cells if cell.excluded})
    served = [cell for cell in cells if not cell.excluded]
    while waiting or served:
        free = np.ones(size, dtype=bool)
        groups: list[Spans] = []
        for group in waiting:
            inside = ~Cell(size, 0, excluded=group).stays
            if free[inside].all():
                groups.append(group)
                free &= ~inside
        waiting = [group for group in waiting if group not in groups]
        served += [cell for cell in cells if cell.excluded in groups]
        others = [runs_of(free)] if groups and free.any() else []
        yield sorted([*groups, *others]), served
        served = []


def _of_division(
    reader: SiteReader, size: int, groups: Sequence[Spans], cells: Sequence[Cell]
) -> Iterator[tuple[Cell, Moments]]:
    """Each of `cells`, which leave out one of `groups` or nothing, with its moments."""
    # all prompts have sums of their own: a merge of the groups would have other last digits
    shards = [
        [s for s in reader.run.shards if any(a <= s.first_prompt < b for a, b in group)]
        for group in [*groups, ((0, size),)]
    ]
    rounding = STORED[reader.run.plan.moments_dtype]
    by_rows: dict[tuple[int, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        by_rows[cell.first_position, cell.prefix].append(cell)
    firsts = sorted({first for first, _ in by_rows})
    for ends, parts in _merges(reader, shards, firsts, max(cell.prefix for cell in cells)):
        at_ends = by_rows.get(ends, [])
        for cell in at_ends:
            if not cell.excluded:
                yield cell, parts[-1].whole(rounding)
        without = {cell.excluded: cell for cell in at_ends if cell.excluded}
        if without:
            for number, rest in _without_each(parts[:-1], reader.width):
                if groups[number] in without:
                    yield without[groups[number]], rest.whole(rounding)


def _merges(
    reader: SiteReader, groups: Sequence[Sequence[Shard]], firsts: Sequence[int], last: int
) -> Iterator[tuple[tuple[int, int], list[Packed]]]:
    """(first, end of a band) with the moments of each group of shards between the two positions.

    Up to the end `last`. Each band is read once. The moments are valid until the next ones.
    """
    stored = reader.run.moments(reader.site)
    running = {first: [Packed.empty(reader.width) for _ in groups] for first in firsts}
    begin = 0
    for band, end in enumerate(reader.run.plan.moment_ends):
        begun = [first for first in firsts if first <= begin]
        for k, shards in enumerate(groups):
            for shard in shards:
                part = stored.band(shard, band)
                for first in begun:
                    running[first][k].add(part)
        for first in begun:
            yield (first, end), running[first]
        if end == last:
            return
        begin = end


def _without_each(parts: Sequence[Packed], dim: int) -> Iterator[tuple[int, Packed]]:
    """Each index of `parts` with the merge of all others: G log2 G merges, by bisection."""

    def below(first: int, end: int, others: Packed) -> Iterator[tuple[int, Packed]]:
        if end - first == 1:
            yield first, others
            return
        middle = (first + end) // 2
        for half, rest in (((first, middle), (middle, end)), ((middle, end), (first, middle))):
            more = deepcopy(others)
            for part in parts[slice(*rest)]:
                more.add(part)
            yield from below(*half, more)

    yield from below(0, len(parts), Packed.empty(dim))
