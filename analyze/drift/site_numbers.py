"""The numbers of one site of two runs, also without each group of prompts.

Distances, cosines and X^T Y need the rows of both runs, which `PairRows` reads in step. Spectra and
leading eigenvectors need those of one run. They are kept for each run as for `profile`, in its
`Cache`, so that a run is multiplied with itself once, whatever it is compared with.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from lpp.analyze.drift.pair import Pair
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Request, SiteRequest
from lpp.analyze.engine.executor import site_bytes
from lpp.analyze.engine.row_values import Values
from lpp.analyze.engine.site_spectra import site_summaries
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.row_measures.prompt_parts import Parts
from lpp.analyze.metrics.summary import Demand, Summary
from lpp.analyze.numerics.cka import BLOCK_ROWS, CrossScatters, alignment
from lpp.analyze.numerics.distance import RowDrift, row_drift, sqnr
from lpp.analyze.numerics.jackknife import Estimate, jackknife
from lpp.analyze.numerics.leading import subspace_overlap
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.quantities.drift import OF_ROWS, RANK_CHANGES, SITE_CHANGES, is_of
from lpp.analyze.runs.cells import Cell, Integers
from lpp.analyze.runs.groups import Groups
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.rows.side_by_side import in_step
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.select import router_sites

CROSS: Final = "cross"
"""||X^T Y||_F^2, columns centred: kept beside the numbers of rows. Infinite where all rows are
equal: then the numbers of A stand for both, and CKA is exactly 1."""

AB: Final = ((0, 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNumbers:
    """A site of both runs, and the numbers requested there."""

    pair: Pair
    site: str
    cell: Cell
    names: tuple[str, ...]
    """The requested numbers that exist."""
    sure: bool
    """Whether numbers outside `OF_ROWS` get an error."""

    @classmethod
    def of(
        cls, pair: Pair, site: str, cell: Cell, requested: Collection[str], *, sure: bool
    ) -> "SiteNumbers":
        """requested: names of numbers. Rows of different widths have a CKA alone."""
        widths = _widths(pair, site)
        names: Collection[str] = SITE_CHANGES if widths[0] == widths[1] else ("cka",)
        router = site in router_sites(pair.a.run)
        available = tuple(n for n in requested if n in names and is_of(n, router=router))
        return cls(pair=pair, site=site, cell=cell, names=available, sure=sure)

    def pair_rows(self, kept_values: Values) -> "PairRows":
        """The numbers that need the rows of both runs and are missing in `kept_values`."""
        names = {name for name in self.names if name in OF_ROWS}
        if names != {*self.names}:
            names.add(CROSS)
        return PairRows(
            pair=self.pair,
            site=self.site,
            cell=self.cell,
            values=frozenset(name for name in names if (self.cell, name) not in kept_values),
            errors=frozenset(
                name
                for name in names
                if any((part, name) not in kept_values for part in self._parts(name))
            ),
        )

    def of_run(self, view: RunView) -> "RunSpectra":
        """The summaries that the numbers need of one of the two runs."""
        products = [name for name in self.names if name not in OF_ROWS]
        needed = Demand.of(METRICS[name] for name in products if name in RANK_CHANGES)
        demand = Demand(needed.solved, needed.correlation, leading="overlap" in products)
        parts = {part: replace(demand, replicate=True) for part in self._parts(CROSS)}
        demands = parts | {self.cell: demand} if products else {}
        return RunSpectra(
            view=view,
            cache=Cache(self.pair.a.run.directory.root, view.run),
            site=self.site,
            demands={own_cell(self.pair, view, cell): need for cell, need in demands.items()},
        )

    def estimates(
        self, values: Values, a: Mapping[Cell, Summary], b: Mapping[Cell, Summary]
    ) -> dict[str, Estimate]:
        """Estimates of `names`; the value is None if the rows have no such number.

        values: of `PairRows`. a, b: the summaries of both runs.
        """

        def value(name: str, cell: Cell) -> float:
            if name in OF_ROWS:
                return values[cell, name]
            ours = a[own_cell(self.pair, self.pair.a, cell)]
            theirs = b[own_cell(self.pair, self.pair.b, cell)]
            cross = values.get((cell, CROSS), math.nan)
            return _of_spectra(name, ours, ours if cross == math.inf else theirs, cross)

        def estimate(name: str) -> Estimate:
            whole = value(name, self.cell)
            if name == "sqnr" and whole == math.inf:  # equal rows, also without any group
                return Estimate(whole, 0.0, whole, whole)
            parts = [value(name, part) for part in self._parts(name)]
            return jackknife(whole, parts, SITE_CHANGES[name].limits)

        return {name: estimate(name) for name in self.names}

    def _parts(self, name: str) -> list[Cell]:
        """The cells that the error of a number comes from."""
        return self.cell.parts(self.pair.groups) if self.sure or name in OF_ROWS else []


def _of_spectra(name: str, a: Summary, b: Summary, cross: float) -> float:
    if name == "cka":
        freedom = max(a.covariance.n - 1, 1)
        squares = a.covariance.sum_squares, b.covariance.sum_squares
        return alignment(cross / freedom**2, *squares)
    if name == "overlap":
        assert a.leading is not None
        assert b.leading is not None
        return subspace_overlap(a.leading, b.leading)
    return b.value(METRICS[name]) - a.value(METRICS[name])


def own_cell(pair: Pair, view: RunView, cell: Cell) -> Cell:
    """`cell` of one run of the pair: without the prompts that the other run alone set aside."""
    others = np.setdiff1d(pair.excluded, view.set_aside)
    prompts = np.isin(np.arange(cell.n_prompts), others)
    return cell.without(prompts) if prompts.any() else cell


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpectra:
    """Summaries of a site of one run."""

    view: RunView
    cache: Cache
    site: str
    demands: Mapping[Cell, Demand]
    """What is needed of each cell."""

    @property
    def key(self) -> tuple[str, str]:
        """Path of the run, and site."""
        return str(self.view.run.path), self.site

    def cached_summaries(self) -> dict[Cell, Summary]:
        """The cached summaries that meet the demand of their cell."""
        leading = any(demand.leading for demand in self.demands.values())
        replicates = [cell for cell, demand in self.demands.items() if demand.replicate]
        known = self.cache.summaries(self.site, replicates, leading=leading) if self.demands else {}
        return {c: known[c] for c, demand in self.demands.items() if demand.met_by(known.get(c))}

    def without(self, cells: Collection[Cell]) -> "RunSpectra":
        """The summaries of all other cells."""
        rest = {cell: demand for cell, demand in self.demands.items() if cell not in cells}
        return RunSpectra(view=self.view, cache=self.cache, site=self.site, demands=rest)

    def compute(self, workers: Workers) -> dict[Cell, Summary]:
        """The summaries, with the bits that `profile` gives."""
        reader = SiteReader(self.view.run, self.site, self.view.lengths)
        return site_summaries(reader, self.demands, workers)

    @property
    def bytes(self) -> int:
        """Most memory that a thread takes, estimated."""
        cells = [*self.demands]
        errors = ["any"] if any(cell.excluded for cell in cells) else []
        request = Request(metrics=[], errors=errors)
        return site_bytes(SiteRequest(self.view, self.cache, self.site, cells, request))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRows:
    """Numbers that need the rows of both runs: those of `OF_ROWS`, and `CROSS`."""

    pair: Pair
    site: str
    cell: Cell
    values: frozenset[str]
    """Names of the numbers needed of the cell."""
    errors: frozenset[str]
    """Names of those needed of each of its `parts`, which leave out one group of prompts each."""

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.values or self.errors)

    def compute(self, workers: Workers) -> Values:
        """The numbers, by cell and number; NaN where the rows have no number."""
        names = self.values | self.errors
        router = self.site in router_sites(self.pair.a.run)
        of_rows = [name for name in OF_ROWS if is_of(name, router=router)]
        of_cells = RowMeans(self.cell, self.pair.groups, 1 if router else len(RowDrift._fields))
        means = of_cells if names.intersection(OF_ROWS) else None
        widths = _widths(self.pair, self.site)
        cross = CrossScatters(widths, AB) if CROSS in names else None
        equal, n = widths[0] == widths[1], 0
        for prompt_id, position, a, b in self._tokens(range(self.cell.n_prompts)):
            n += len(a)
            if means or equal:
                drift = [(np.sort(a) != np.sort(b)).any(axis=1)] if router else row_drift(a, b)
                equal = equal and not drift[0].any()
                if means:
                    means.add(prompt_id, position, drift)
            if cross:
                cross.add([a, a if equal else b])
        SiteReader(self.pair.a.run, self.site, self.pair.lengths).check(self.cell, n)
        numbers: Values = {}
        if means:
            for cell, found in means.means().items():
                values = found if router else [*found[:2], sqnr(*found[2:].tolist())]
                numbers |= {(cell, n): float(x) for n, x in zip(of_rows, values, strict=True)}
        if cross:
            numbers |= self._crosses(cross, workers, equal=equal)
        return numbers

    def _tokens(self, prompts: range) -> Iterator[tuple[Integers, Integers, Rows, Rows]]:
        """Prompt, position and both rows of the tokens of `cell` in `prompts`."""
        sources = [(run, self.site) for run in self.pair.runs]
        steps = in_step(
            sources, prompts, block_rows=BLOCK_ROWS, excluded=self.pair.excluded, dtype="stored"
        )
        for prompt_id, position, (a, b) in steps:
            inside = (position >= self.cell.first_position) & (position < self.cell.prefix)
            if inside.all():
                yield prompt_id, position, a, b
            elif inside.any():
                yield prompt_id[inside], position[inside], a[inside], b[inside]

    def _crosses(self, cross: CrossScatters, workers: Workers, *, equal: bool) -> Values:
        """`CROSS` of the cell, and of each part, which needs another read of its group."""
        whole = [self.cell] if CROSS in self.values else []
        parts = self.cell.parts(self.pair.groups) if CROSS in self.errors else []
        if equal:  # then also without any group
            return {(cell, CROSS): math.inf for cell in (*whole, *parts)}
        tasks = [workers.submit(self._without, cross, part) for part in parts]
        crosses = {(cell, CROSS): _finite(cross.square(0, 1)) for cell in whole}
        squares = workers.results(tasks)
        return crosses | {(part, CROSS): x for part, x in zip(parts, squares, strict=True)}

    def _without(self, whole: CrossScatters, part: Cell) -> float:
        """`CROSS` of a cell that leaves a group out."""
        group = CrossScatters(_widths(self.pair, self.site), AB, whole.shifts)
        for span in part.excluded:
            for _, _, a, b in self._tokens(range(*span)):
                group.add([a, b])
        return _finite(whole.without(group).square(0, 1))


class RowMeans:
    """Means of `count` numbers over the tokens of `cell`: 24 bytes for each group of two."""

    def __init__(self, cell: Cell, groups: Groups, count: int) -> None:
        self._cell = cell
        self._without = cell.parts(groups)
        self._parts = Parts([cell, *self._without])
        self._sums = np.zeros((count, self._parts.count + 1))  # the last is of no cell
        self._counts = np.zeros(self._parts.count + 1, dtype=np.int64)

    def add(self, prompt_id: Integers, position: Integers, drift: Sequence[Floats]) -> None:
        """Add some tokens of the cell."""
        part = self._parts.of(prompt_id, position)
        size = len(self._counts)
        self._counts += np.bincount(part, minlength=size)
        with np.errstate(invalid="ignore", over="ignore"):
            self._sums += [np.bincount(part, values, minlength=size) for values in drift]

    def means(self) -> dict[Cell, Floats]:
        """(count,) means over the cell, and without each group of prompts."""
        return {cell: self._mean(cell) for cell in (self._cell, *self._without)}

    def _mean(self, cell: Cell) -> Floats:
        inside = np.flatnonzero(self._parts.inside(cell))
        with np.errstate(invalid="ignore"):  # no token: 0 over 0; infinite less infinite
            means: Floats = self._sums[:, inside].sum(axis=1) / self._counts[inside].sum()
        return means


def _finite(square: float) -> float:
    return square if math.isfinite(square) else math.nan


def _widths(pair: Pair, site: str) -> list[int]:
    """Width of each run's rows."""
    return [run.site(site).width for run in pair.runs]
