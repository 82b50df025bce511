"""The numbers of one site of two runs, with their errors: from rows, or of ranks from moments."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.site_sums import BOTH, PairScatters, RowMeans
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request, site_estimates
from lpp.analyze.engine.stored_moments import holds
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.summary import Demand, summarize
from lpp.analyze.numerics.cka import BLOCK_ROWS, CrossScatters, alignment
from lpp.analyze.numerics.jackknife import Estimate, jackknife, jackknife_difference
from lpp.analyze.numerics.leading import leading_eigenvectors, subspace_overlap
from lpp.analyze.numerics.moments import Moments, Rows
from lpp.analyze.numerics.row_drift import row_drift
from lpp.analyze.runs.cells import Cell, Integers, n_tokens
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.moments_held import listed_numbers
from lpp.analyze.runs.side_by_side import in_step
from lpp.analyze.runs.site_reader import SiteReader

Number = Literal[
    "relative_distance", "cosine", "cka", "overlap", "participation_ratio", "effective_rank"
]

NUMBERS: Final[tuple[Number, ...]] = get_args(Number)
"""What is said of a site."""

OF_ROWS: Final = NUMBERS[:2]
"""Means over tokens; the others are of the products of all rows."""

RANKS: Final = NUMBERS[4:]
"""Differences of metrics of each run's spectrum, by their names."""

LIMITS: Final[Mapping[Number, tuple[float, float]]] = {
    "relative_distance": (0.0, math.inf),
    "cosine": (-1.0, 1.0),
    "cka": (0.0, 1.0),
    "overlap": (0.0, 1.0),
    "participation_ratio": (-math.inf, math.inf),
    "effective_rank": (-math.inf, math.inf),
}
"""What no such number can leave."""


def why_no_moments(pair: Pair, cell: Cell) -> str | None:
    """Why there are no ranks of `cell` where a run keeps no rows; else None."""
    for view in (pair.a, pair.b):
        plan = view.run.plan
        if not np.array_equal(view.set_aside[: view.quarantined(cell.n_prompts)], pair.left_out):
            return "the runs set different prompts aside, and moments leave out those of one"
        if not plan.keeps_rows and not holds(view.run, cell):
            return (
                f"there are some of {listed_numbers(plan.shards[1:])} prompts, between positions "
                f"{listed_numbers((0, *plan.moment_ends))}"
            )
    return None


@dataclass(frozen=True, slots=True)
class SiteNumbers:
    """One site of both runs, and what is wanted of it."""

    pair: Pair
    site: str
    cell: Cell
    wanted: Collection[Number]
    groups: int
    """Of prompts, left out in turn for errors of what is not `OF_ROWS`; 0 for no errors."""
    workers: Workers

    @property
    def views(self) -> tuple[RunView, RunView]:
        """Both runs."""
        return self.pair.a, self.pair.b

    @property
    def widths(self) -> list[int]:
        """Columns of each run's rows."""
        return [view.run.site(self.site).width for view in self.views]

    @property
    def n_tokens(self) -> int:
        """Tokens compared."""
        return n_tokens(self.pair.lengths, self.cell)

    def estimates(self) -> dict[Number, Estimate]:
        """Those of `wanted` that there are; value None for what the rows hold no number of."""
        both = all(view.run.plan.keeps_rows for view in self.views)
        found = self._of_rows() if both else self._of_moments()
        return {name: one for name, one in found.items() if name in self.wanted}

    def _of_rows(self) -> dict[Number, Estimate]:
        """Everything, from the rows of both runs."""
        means = RowMeans(self.cell) if self.widths[0] == self.widths[1] else None
        sums = PairScatters(self.widths) if set(self.wanted).difference(OF_ROWS) else None
        n = 0
        for prompt_id, position, a, b in self._tokens(range(self.cell.n_prompts)):
            n += len(a)
            equal = False
            if means:
                drift = row_drift(a, b)
                means.add(prompt_id, position, drift)
                equal = not drift.relative_distance.any()
            if sums:
                sums.add(a, b, equal=equal)
        SiteReader(self.pair.a.run, self.site, self.pair.lengths).check(self.cell, n)
        found: dict[Number, Estimate] = {}
        if means:
            limits = [LIMITS[name] for name in OF_ROWS]
            found |= zip(OF_ROWS, means.estimates(limits), strict=True)
        return found | (self._of_products(sums) if sums else {})

    def _tokens(self, prompts: range) -> Iterator[tuple[Integers, Integers, Rows, Rows]]:
        """Prompt, position and both rows of the tokens of `cell` in `prompts`."""
        sources = [(view.run, self.site) for view in self.views]
        steps = in_step(
            sources, prompts, block_rows=BLOCK_ROWS, left_out=self.pair.left_out, dtype="stored"
        )
        for prompt_id, position, (a, b) in steps:
            inside = (position >= self.cell.first_position) & (position < self.cell.prefix)
            if inside.all():
                yield prompt_id, position, a, b
            elif inside.any():
                yield prompt_id[inside], position[inside], a[inside], b[inside]

    def _of_products(self, sums: PairScatters) -> dict[Number, Estimate]:
        """CKA, overlap and differences of ranks, with errors from another read."""
        whole = self._numbers(sums.scatters)
        parts = self.cell.parts(self.groups)
        if sums.equal:  # without any group, too
            without = [whole] * len(parts)
        else:
            tasks = [self.workers.submit(self._without, sums.scatters, part) for part in parts]
            without = self.workers.results(tasks)
        return {
            name: jackknife(value, [part[name] for part in without], LIMITS[name])
            for name, value in whole.items()
        }

    def _without(self, whole: CrossScatters, part: Cell) -> dict[Number, float]:
        """The numbers of a cell that leaves a group out."""
        group = CrossScatters(self.widths, BOTH, whole.shifts)
        for _, _, a, b in self._tokens(range(*part.gap)):
            group.add([a, b])
        return self._numbers(whole.without(group))

    def _numbers(self, sums: CrossScatters) -> dict[Number, float]:
        """Of the products of both runs, or of one alone where the rows of the other are equal."""
        a = sums.moments(0)
        b = sums.moments(1) if sums.n_sites == 2 else a
        found: dict[Number, float] = {}
        if "cka" in self.wanted:
            square, other = (_square(one) for one in (a, b))
            found["cka"] = alignment(square if b is a else sums.square(0, 1), square, other)
        if self.widths[0] != self.widths[1]:
            return found
        if "overlap" in self.wanted:
            u = leading_eigenvectors(a)
            found["overlap"] = subspace_overlap(u, u if b is a else leading_eigenvectors(b))
        if ranks := {name: METRICS[name] for name in RANKS if name in self.wanted}:
            demand = Demand.of(ranks.values())
            before = summarize(a, demand)
            after = before if b is a else summarize(b, demand)
            found |= {name: after.value(m) - before.value(m) for name, m in ranks.items()}
        return found

    def _of_moments(self) -> dict[Number, Estimate]:
        """Differences of ranks, where a run keeps no rows."""
        if self.widths[0] != self.widths[1] or why_no_moments(self.pair, self.cell):
            return {}
        names = [name for name in RANKS if name in self.wanted]
        request = Request(
            metrics=[METRICS[name] for name in names],
            errors=names if self.groups else (),
            groups=self.groups,
        )
        a, b = (self._estimates(view, request) for view in self.views)
        key = self.cell
        return {
            name: jackknife_difference(b[key, name], a[key, name], LIMITS[name]) for name in names
        }

    def _estimates(self, view: RunView, request: Request) -> Estimates:
        cache = Cache(view.run.path.parent.parent, view.run)
        return site_estimates(view, cache, self.site, [self.cell], request, workers=self.workers)


def _square(moments: Moments) -> float:
    """Squared Frobenius norm of the scatter."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.vdot(moments.scatter, moments.scatter))
