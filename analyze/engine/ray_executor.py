"""Analysis on a Ray cluster: each site is a task, or each span of a long site.

A site of one span, or with stored moments, is one task, which also writes the cache. For a longer
site there is a task for each span (read and sum), tasks that add the sums in order, a task for the
spectra of each number of prompts, and one for each group that the jackknife leaves out. The driver
only submits tasks, combines their results and writes the cache.

Tasks read the store by its URL, from a disk or bucket that every machine can access. Results are in
Ray's object store. If a machine is lost, its results are computed again from the rows; if a worker
dies, its task is repeated. The bits stay the same, since a task depends only on its arguments.

The object stores take 8 b d^2 bytes for each span in progress, at most two spans per processor.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from lpp.analyze.engine.accumulate import (
    Band,
    BandSums,
    band_shifts,
    bands_of,
    group_rows,
    pieces,
    read_groups,
    rows_of,
    span_ends,
    span_rows,
)
from lpp.analyze.engine.estimates import Estimates, Wanted, site_estimates
from lpp.analyze.engine.row_values import RowValues, Values
from lpp.analyze.engine.site_spectra import (
    Sums,
    group_summaries,
    site_summaries,
    whole_summaries,
)
from lpp.analyze.engine.stored_moments import from_stored
from lpp.analyze.engine.work import Item, Result, Work
from lpp.analyze.engine.workers import Solves, Workers
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.summary import Demand, Summary
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import Spans
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.commands.cluster import processors, task_error

REPEATS: Final = 10
"""Most repeats of a task whose worker or machine died: preemptible machines die often."""

AHEAD: Final = 2
"""Submitted tasks per processor: enough that none idles, few enough to limit memory."""

ADDED: Final = 8
"""Spans whose sums one task adds."""

Ref = Any
"""A reference to an object in Ray's object store."""


@dataclass
class _Pending:
    """One site in progress: the request, and references to its parts."""

    work: Work
    wanted: Wanted
    whole: Ref = None
    """The estimates, if one task computes everything."""
    summaries: list[Ref] = field(default_factory=list)
    values: Ref = None


class RayExecutor:
    """Implements `Executor` on the cluster that `ray` is connected to."""

    remote = True

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        remote = ray.remote(max_retries=REPEATS, num_cpus=1)
        self._site, self._span, self._add = remote(_site), remote(_span), remote(_add)
        self._few, self._whole, self._shifts = remote(_few), remote(_whole), remote(_shifts)
        self._group, self._rows, self._apart = remote(_group), remote(_rows), remote(_apart)
        self._task = remote(_task)
        self.jobs = processors(ray)
        self._limit = AHEAD * self.jobs
        self._under_way: list[Ref] = []
        self._views: dict[str, Ref] = {}

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """The estimates of each site, in order; enough sites are in progress for all processors."""
        pending: deque[_Pending] = deque()
        try:
            for one in work:
                pending.append(self._begin(one))
                while pending and self._ready(pending[0]):
                    yield self._end(pending.popleft())
            while pending:
                yield self._end(pending.popleft())
        except self._ray.exceptions.RayError as error:
            raise task_error(self._ray, error) from None

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order. item_bytes: ignored, as Ray schedules by processors."""
        pending: deque[Ref] = deque()
        try:
            for item in items:
                pending.append(self._handed(self._task, task, item))
                while pending and self._ray.wait([pending[0]], timeout=0)[0]:
                    yield self._ray.get(pending.popleft())
            while pending:
                yield self._ray.get(pending.popleft())
        except self._ray.exceptions.RayError as error:
            raise task_error(self._ray, error) from None

    def _begin(self, work: Work) -> _Pending:
        wanted = Wanted.of(work.cache, work.site, work.cells, work.request)
        found = _Pending(work, wanted)
        if not (wanted.missing or wanted.absent):
            return found
        view, lengths = self._view(work.view), work.view.lengths
        reader = SiteReader(work.view.run, work.site, lengths)
        most = max(cell.n_prompts for cell in work.cells)
        ends = span_ends(lengths[:most], span_rows(reader.width))
        held = from_stored(work.view.run, wanted.missing)
        rest = {cell: d for cell, d in wanted.missing.items() if cell not in held}
        if (
            not (rest or wanted.absent)
            or not work.view.run.plan.keeps_rows
            or not ends
            or ends[0] >= most
        ):
            args = (view, work.cache, work.site, work.cells, work.request)
            found.whole = self._handed(self._site, *args)
            return found
        found.summaries = self._spectra(view, reader, ends, rest) if rest else []
        if held:
            some = {cell: wanted.missing[cell] for cell in held}
            found.summaries.append(self._handed(self._few, view, work.site, some))
        if wanted.absent:
            found.values = self._handed(self._rows, view, work.site, wanted.absent)
        return found

    def _ready(self, pending: _Pending) -> bool:
        refs = [pending.whole, pending.values, *pending.summaries]
        some = [ref for ref in refs if ref is not None]
        return not some or len(self._ray.wait(some, num_returns=len(some), timeout=0)[1]) == 0

    def _end(self, pending: _Pending) -> Estimates:
        get, work = self._ray.get, pending.work
        if pending.whole is not None:
            found: Estimates = get(pending.whole)
            return found
        new: dict[Cell, Summary] = {}
        for part in get(pending.summaries):
            new |= part
        values = {} if pending.values is None else get(pending.values)
        return pending.wanted.estimates(work.cache, work.site, new, values)

    def _spectra(
        self, view: Ref, reader: SiteReader, ends: Sequence[int], wanted: Mapping[Cell, Demand]
    ) -> list[Ref]:
        """The summaries of `wanted`, for a site of several spans, as several references."""
        schedule = reader.run.plan.prefixes
        bands = bands_of(wanted, schedule)
        sizes: dict[int, dict[Cell, Demand]] = defaultdict(dict)
        for cell in sorted(wanted):
            sizes[cell.n_prompts][cell] = wanted[cell]
        # One task computes all sizes within the first span: they have few rows.
        few = {c: d for size, cells in sizes.items() if size <= ends[0] for c, d in cells.items()}
        found = [self._handed(self._few, view, reader.site, few)] if few else []
        shifts = self._handed(self._shifts, view, reader.site, bands, ends[0])
        for size, cells in sizes.items():
            if size <= ends[0]:
                continue
            site = (view, reader.site, bands, shifts)
            sums = self._sums(site, pieces(ends, 0, size))
            found.append(self._handed(self._whole, *site[:2], cells, sums))
            for left_out, leaving in _by_group(cells):
                if len(left_out) == 1:
                    group = self._sums(site, pieces(ends, *left_out[0]))
                else:
                    group = self._handed(self._apart, *site, left_out)
                found.append(self._handed(self._group, leaving, schedule, sums, group))
        return found

    def _sums(
        self, site: tuple[Ref, str, Sequence[Band], Ref], parts: Sequence[tuple[int, int]]
    ) -> Ref:
        """The sums of each band over several spans, added from left to right."""
        total: Ref = None
        for start in range(0, len(parts), ADDED):
            spans = [self._handed(self._span, *site, part) for part in parts[start:][:ADDED]]
            total = self._handed(self._add, total, *spans)
        return total

    def _handed(self, task: Any, *args: Any) -> Any:
        """Submit a task, as soon as fewer than the limit are in progress."""
        while len(self._under_way) >= self._limit:
            _, self._under_way = self._ray.wait(self._under_way, num_returns=1, fetch_local=False)
        made = task.remote(*args)
        self._under_way.append(made)
        return made

    def _view(self, view: RunView) -> Ref:
        """A reference to the run as it is here, so that every task sees the same shards."""
        if view.run.id not in self._views:
            self._views[view.run.id] = self._ray.put(view)
        return self._views[view.run.id]


def _by_group(cells: Mapping[Cell, Demand]) -> list[tuple[Spans, dict[Cell, Demand]]]:
    """Cells that leave out a group, by group and first position."""
    found: dict[tuple[Spans, int], dict[Cell, Demand]] = defaultdict(dict)
    for cell, demand in cells.items():
        if cell.left_out:
            found[cell.left_out, cell.first_position][cell] = demand
    return [(group, leaving) for (group, _), leaving in found.items()]


QUIET: Final = np.errstate(invalid="ignore", over="ignore")
"""Rows with NaN or infinities give NaN; a warning would add nothing."""


# The tasks. They depend on their arguments alone and keep nothing between calls.


@QUIET
def _task(task: Callable[[Item, Workers], Result], item: Item) -> Result:
    with Workers(1) as workers:
        return task(item, workers)


@QUIET
def _site(view: RunView, *args: Any) -> Estimates:
    with Workers(1) as workers:
        return site_estimates(view, *args, workers=workers)


@QUIET
def _few(view: RunView, site: str, wanted: Mapping[Cell, Demand]) -> dict[Cell, Summary]:
    with Workers(1) as workers:
        return site_summaries(_reader(view, site), wanted, workers)


def _reader(view: RunView, site: str) -> SiteReader:
    return SiteReader(view.run, site, view.lengths)


def _shifts(view: RunView, site: str, bands: Sequence[Band], end: int) -> Floats:
    return band_shifts(_reader(view, site), bands, end)


@QUIET
def _span(
    view: RunView,
    site: str,
    bands: Sequence[Band],
    shifts: Sequence[Floats],
    prompts: tuple[int, int],
) -> Sums:
    """The sums over some prompts of a site, all within one span."""
    reader, (first, end) = _reader(view, site), prompts
    with Workers(1) as workers:
        counts = rows_of(bands, reader.lengths[first:end])
        sums = BandSums(reader, bands, counts, workers, list(shifts))
        for _ in reader.read([end], sums, first=first, dtype="stored"):
            pass
        return sums.sums()


@QUIET
def _apart(
    view: RunView, site: str, bands: Sequence[Band], shifts: Sequence[Floats], group: Spans
) -> Sums:
    """The sums over prompts that lie apart, in the order of one process."""
    reader = _reader(view, site)
    with Workers(1) as workers:
        counts = group_rows(reader, group, bands)
        running = BandSums(reader, bands, counts, workers, list(shifts))
        for _ in read_groups(reader, [group], running):
            pass
        return running.sums()


@QUIET
def _add(total: Sums | None, *parts: Sums) -> Sums:
    """All sums added from left to right. Objects of the object store are read-only, so copy."""
    spans = list(parts) if total is None else [total, *parts]
    into = {band: sums.copy() for band, sums in spans[0].items()}
    for span in spans[1:]:
        for band, sums in span.items():
            into[band].add(sums)
    return into


@QUIET
def _whole(
    view: RunView, site: str, wanted: Mapping[Cell, Demand], sums: Sums
) -> dict[Cell, Summary]:
    """The summaries of cells of one number of prompts, without a group left out."""
    with Workers(1) as workers:
        solves = Solves(workers)
        whole_summaries(_reader(view, site), wanted, sums, solves)
        return solves.all()


@QUIET
def _group(
    wanted: Mapping[Cell, Demand], ends: Sequence[int], sums: Sums, group: Sums
) -> dict[Cell, Summary]:
    """The summaries of cells that leave out one group."""
    with Workers(1):
        return group_summaries(wanted, sums, ends, group)


@QUIET
def _rows(view: RunView, site: str, absent: Mapping[Cell, Sequence[Metric[Any]]]) -> Values:
    """Metrics that need the rows themselves; one task reads all rows in order."""
    reader = _reader(view, site)
    with Workers(1) as workers:
        rows = RowValues(reader, absent, workers)
        site_summaries(reader, {}, workers, rows)
        return rows.finish()
