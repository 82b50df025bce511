"""Analysis on a Ray cluster: sites are tasks, and of long sites every span is one.

A site of one span, or whose moments are stored, is one task, which does all of it and keeps it in
the cache. Of a longer one
each span is read and multiplied by a task, the bands merge by tasks in the tree of `spans`, one
task takes the spectra of each number of prompts and one each group that a jackknife leaves out.
The driver computes nothing: it hands out work, puts estimates together and keeps what is new.

Tasks read the store by its URL, from the shared disk or the bucket that every machine must see.
What they give back is in Ray's object store and is made again, from the rows, where a machine was
lost; a task whose worker died is repeated. Both end in the same bits: a task depends on nothing
but its arguments.

Held in the object stores: 8 b d^2 bytes for each open span, at most two for each processor.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lpp.analyze.engine.bands import Bands, band_counts
from lpp.analyze.engine.estimates import Estimates, Wanted, site_estimates
from lpp.analyze.engine.executor import Work
from lpp.analyze.engine.held import Held, HeldBands, Spreads, merged
from lpp.analyze.engine.left_out import without_group, without_rows
from lpp.analyze.engine.row_values import RowValues, Values
from lpp.analyze.engine.site_summaries import site_summaries, whole_summaries
from lpp.analyze.engine.spans import Tree, pieces, span_ends, span_rows
from lpp.analyze.engine.stored_moments import serves
from lpp.analyze.engine.summary import Demand, Summary, summarize
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.numerics.moments import Moments, Workspace
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.commands.cluster import processors, task_error

REPEATS: Final = 10
"""Of a task whose worker or machine died: machines that may be taken away at any time die often."""

AHEAD: Final = 2
"""Tasks handed out for each processor: none waits for the driver, and few results lie about."""

Nodes = list[Held]
Ref = Any
"""Of something in Ray's object store."""


@dataclass
class _Pending:
    """One site under way: what is wanted, and where its parts will be."""

    work: Work
    wanted: Wanted
    whole: Ref = None
    """Of the estimates, where one task does everything."""
    summaries: Sequence[Ref] = ()
    values: Ref = None


class RayExecutor:
    """Implements `Executor` on the cluster that `ray` is connected to."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        remote = ray.remote(max_retries=REPEATS, num_cpus=1)
        self._site, self._leaf, self._join = remote(_site), remote(_leaf), remote(_join)
        self._whole = ray.remote(max_retries=REPEATS, num_cpus=1, num_returns=2)(_whole)
        self._group, self._rows = remote(_group), remote(_rows)
        self._limit = AHEAD * processors(ray)
        self._under_way: list[Ref] = []
        self._views: dict[str, Ref] = {}

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """Those of each site, in order; as many sites are under way as there are processors for."""
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

    def _begin(self, work: Work) -> _Pending:
        wanted = Wanted.of(work.cache, work.site, work.cells, work.request)
        found = _Pending(work, wanted)
        if not (wanted.missing or wanted.absent):
            return found
        view, lengths = self._view(work.view), work.view.lengths
        reader = SiteReader(work.view.run, work.site, lengths)
        most = max(cell.n_prompts for cell in work.cells)
        ends = span_ends(lengths[:most], span_rows(reader.width))
        held = not wanted.absent and serves(work.view.run, wanted.missing)
        if held or not work.view.run.plan.keeps_rows or not ends or ends[0] >= most:
            args = (view, work.cache, work.site, work.cells, work.request)
            found.whole = self._handed(self._site, *args)
            return found
        found.summaries = self._spectra(view, reader, ends, wanted.missing)
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
        for part in get(list(pending.summaries)):
            new |= part
        values = {} if pending.values is None else get(pending.values)
        return pending.wanted.estimates(work.cache, work.site, new, values)

    def _spectra(
        self, view: Ref, reader: SiteReader, ends: Sequence[int], wanted: Mapping[Cell, Demand]
    ) -> list[Ref]:
        """The summaries of `wanted`, in parts, of a site of several spans."""
        upper = sorted({cell.prefix for cell in wanted})
        sizes: dict[int, list[Cell]] = defaultdict(list)
        for cell in sorted(wanted):
            sizes[cell.n_prompts].append(cell)
        found = []
        for size, cells in sizes.items():
            nodes = self._nodes(view, reader, upper, ends, (0, size))
            some = {cell: wanted[cell] for cell in cells if cell in wanted}
            whole, kept = self._handed(self._whole, view, reader.site, some, upper, *nodes)
            found.append(whole)
            apart = [c for c in cells if c.groups and not _few(reader, c)]
            for gap, leaving in _by_gap(apart).items():
                below = sorted({cell.prefix for cell in apart if cell.groups == leaving[0].groups})
                nodes = self._nodes(view, reader, below, ends, gap)
                asked = {cell: wanted[cell] for cell in leaving}
                found.append(self._handed(self._group, reader.width, asked, below, kept, *nodes))
        return found

    def _nodes(
        self,
        view: Ref,
        reader: SiteReader,
        upper: Sequence[int],
        ends: Sequence[int],
        prompts: tuple[int, int],
    ) -> list[Ref]:
        """The roots of the tree over some prompts, and the span that is still open."""
        tree = Tree[Ref](lambda nodes: self._handed(self._join, *nodes), eager=False)
        closed, still_open = pieces(ends, reader.lengths, *prompts)
        for part in closed:
            tree.add(self._handed(self._leaf, view, reader.site, upper, part, True))
        last = [self._handed(self._leaf, view, reader.site, upper, p, False) for p in still_open]
        return [*tree.roots, *last]

    def _handed(self, task: Any, *args: Any) -> Any:
        """Hand out a task, once few enough are under way."""
        while len(self._under_way) >= self._limit:
            _, self._under_way = self._ray.wait(self._under_way, num_returns=1, fetch_local=False)
        made = task.remote(*args)
        self._under_way.append(made[0] if isinstance(made, list) else made)
        return made

    def _view(self, view: RunView) -> Ref:
        """The run as it is known here, so that every task sees the same shards."""
        if view.run.id not in self._views:
            self._views[view.run.id] = self._ray.put(view)
        return self._views[view.run.id]


def _few(reader: SiteReader, cell: Cell) -> bool:
    """Whether the whole of it has fewer rows than columns, so that groups are cut from its Gram."""
    return n_tokens(reader.lengths, cell.whole) < reader.width


def _by_gap(cells: Iterable[Cell]) -> dict[tuple[int, int], list[Cell]]:
    found: dict[tuple[int, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        found[cell.gap].append(cell)
    return found


# What runs on the cluster. Everything is in the arguments; nothing is kept between two calls.


def _site(view: RunView, *args: Any) -> Estimates:
    return site_estimates(view, *args)


def _reader(view: RunView, site: str) -> SiteReader:
    return SiteReader(view.run, site, view.lengths)


def _leaf(
    view: RunView, site: str, upper: Sequence[int], prompts: tuple[int, int], closed: bool
) -> Nodes:
    """The bands of some prompts of a site, which lie in one span."""
    reader, (first, end) = _reader(view, site), prompts
    bands = Bands(reader.width, upper, band_counts(reader.lengths[first:end], upper))
    with np.errstate(invalid="ignore", over="ignore"):
        for _ in reader.read([end], bands, first=first):
            pass
        found = [bands.held(b) for b in range(len(upper))]
        return [band.close(bands.work) for band in found] if closed else found


def _join(*nodes: Nodes) -> Nodes:
    first, *others = nodes
    into = [band.copy() for band in first]  # what came out of the object store cannot be changed
    work = Workspace(into[0].dim)
    with np.errstate(invalid="ignore", over="ignore"):
        for b, band in enumerate(into):
            for other in others:
                band.join(other[b], work)
    return into


def _bands(dim: int, upper: Sequence[int], nodes: Sequence[Nodes]) -> Spreads:
    work, empty = Workspace(dim), Held(np.empty((0, dim), np.float32))
    found = [merged([node[b] for node in nodes] or [empty], work) for b in range(len(upper))]
    return HeldBands(dim, upper, found)


def _whole(
    view: RunView,
    site: str,
    wanted: Mapping[Cell, Demand],
    upper: Sequence[int],
    *nodes: Nodes,
) -> tuple[dict[Cell, Summary], dict[int, Moments]]:
    """The summaries of cells of one number of prompts, and what groups are taken from."""
    reader = _reader(view, site)
    with np.errstate(invalid="ignore", over="ignore"):
        bands = _bands(reader.width, upper, nodes)
        found, kept = whole_summaries(reader, list(wanted), wanted, bands)
        for cell, rest in without_rows(reader, list(wanted), kept, upper):
            found[cell] = summarize(rest, wanted[cell])
    return found, {p: spread for p, spread in kept.items() if isinstance(spread, Moments)}


def _group(
    dim: int,
    wanted: Mapping[Cell, Demand],
    upper: Sequence[int],
    kept: Mapping[int, Moments],
    *nodes: Nodes,
) -> dict[Cell, Summary]:
    """The summaries of cells that one group is left out of, whose rows are in `nodes`."""
    with np.errstate(invalid="ignore", over="ignore"):
        bands = _bands(dim, upper, nodes)
        some = without_group(list(wanted), bands, kept)
        return {cell: summarize(rest, wanted[cell]) for cell, rest in some}


def _rows(view: RunView, site: str, absent: Mapping[Cell, Sequence[Metric[Any]]]) -> Values:
    """Metrics that need the rows themselves: they are read in order, whatever their number."""
    reader = _reader(view, site)
    rows = RowValues(reader, absent)
    site_summaries(reader, {}, rows)
    return rows.finish()
