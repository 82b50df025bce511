"""The numbers of one site of two runs, computed from rows, also without each group of prompts."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.site_sums import BOTH, PairScatters, RowMeans
from lpp.analyze.engine.row_values import Values
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.summary import Demand, summarize
from lpp.analyze.numerics.cka import BLOCK_ROWS, CrossScatters, alignment
from lpp.analyze.numerics.jackknife import Estimate, jackknife
from lpp.analyze.numerics.leading import leading_eigenvectors, subspace_overlap
from lpp.analyze.numerics.moments import Moments, Rows
from lpp.analyze.numerics.row_drift import row_drift
from lpp.analyze.quantities.drift import OF_ROWS, RANKS, SITE_CHANGES
from lpp.analyze.runs.cells import Cell, Integers
from lpp.analyze.runs.side_by_side import in_step
from lpp.analyze.runs.site_reader import SiteReader


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteNumbers:
    """One site of both runs, and the numbers to compute."""

    pair: Pair
    site: str
    cell: Cell
    values: frozenset[str]
    """Numbers wanted of the cell."""
    errors: frozenset[str]
    """Numbers wanted of each of its `parts`, each of which leaves out a group of prompts."""

    @classmethod
    def missing(
        cls,
        pair: Pair,
        site: str,
        cell: Cell,
        wanted: Collection[str],
        *,
        sure: bool,
        kept: Values,
    ) -> Self:
        """Those wanted numbers, and their errors, that are not stored.

        sure: whether numbers outside `OF_ROWS` get an error.
        """
        there = _there(pair, site)
        parts = cell.parts(pair.groups)
        return cls(
            pair=pair,
            site=site,
            cell=cell,
            values=frozenset(n for n in wanted if n in there and (cell, n) not in kept),
            errors=frozenset(
                name
                for name in wanted
                if name in there
                and (sure or name in OF_ROWS)
                and any((part, name) not in kept for part in parts)
            ),
        )

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.values or self.errors)

    def compute(self, workers: Workers) -> Values:
        """The missing numbers, by cell and number; NaN where the rows have no number."""
        every = self.values | self.errors
        means = RowMeans(self.cell, self.pair.groups) if every.intersection(OF_ROWS) else None
        sums = PairScatters(_widths(self.pair, self.site)) if every.difference(OF_ROWS) else None
        n = 0
        for prompt_id, position, a, b in self._tokens(range(self.cell.n_prompts)):
            n += len(a)
            equal = False
            if means:
                drift = row_drift(a, b)
                means.add(prompt_id, position, drift)
                equal = not drift.relative_distance.any()
            elif sums and sums.equal:
                equal = not row_drift(a, b).relative_distance.any()
            if sums:
                sums.add(a, b, equal=equal)
        SiteReader(self.pair.a.run, self.site, self.pair.lengths).check(self.cell, n)
        found: Values = {}
        if means:
            for cell, both in means.means().items():
                found |= {(cell, name): float(both[k]) for k, name in enumerate(OF_ROWS)}
        return found | (self._of_products(sums, workers) if sums else {})

    def _tokens(self, prompts: range) -> Iterator[tuple[Integers, Integers, Rows, Rows]]:
        """Prompt, position and both rows of the tokens of `cell` in `prompts`."""
        sources = [(view.run, self.site) for view in (self.pair.a, self.pair.b)]
        steps = in_step(
            sources, prompts, block_rows=BLOCK_ROWS, left_out=self.pair.left_out, dtype="stored"
        )
        for prompt_id, position, (a, b) in steps:
            inside = (position >= self.cell.first_position) & (position < self.cell.prefix)
            if inside.all():
                yield prompt_id, position, a, b
            elif inside.any():
                yield prompt_id[inside], position[inside], a[inside], b[inside]

    def _of_products(self, sums: PairScatters, workers: Workers) -> Values:
        """CKA, overlap and differences of ranks; those without each group need another read."""
        parts = self.cell.parts(self.pair.groups)
        values, errors = (some.difference(OF_ROWS) for some in (self.values, self.errors))
        whole = self._numbers(sums.scatters, values | errors if sums.equal else values)
        if not errors:
            without = []
        elif sums.equal:  # then also without any group
            without = [{name: whole[name] for name in errors}] * len(parts)
        else:
            tasks = [workers.submit(self._without, sums.scatters, part, errors) for part in parts]
            without = workers.results(tasks)
        found: Values = {(self.cell, name): whole[name] for name in values}
        for part, numbers in zip(parts, without, strict=False):
            found |= {(part, name): value for name, value in numbers.items()}
        return found

    def _without(
        self, whole: CrossScatters, part: Cell, names: Collection[str]
    ) -> dict[str, float]:
        """The numbers of a cell that leaves a group out."""
        group = CrossScatters(_widths(self.pair, self.site), BOTH, whole.shifts)
        for span in part.left_out:
            for _, _, a, b in self._tokens(range(*span)):
                group.add([a, b])
        return self._numbers(whole.without(group), names)

    def _numbers(self, sums: CrossScatters, names: Collection[str]) -> dict[str, float]:
        """Numbers from the products of both runs; of one run if the rows of both are equal."""
        if not names:
            return {}
        a = sums.moments(0)
        b = sums.moments(1) if sums.n_sites == 2 else a
        found: dict[str, float] = {}
        if "cka" in names:
            square, other = (_square(one) for one in (a, b))
            found["cka"] = alignment(square if b is a else sums.square(0, 1), square, other)
        if "overlap" in names:
            u = leading_eigenvectors(a)
            found["overlap"] = subspace_overlap(u, u if b is a else leading_eigenvectors(b))
        if ranks := {name: METRICS[name] for name in RANKS if name in names}:
            demand = Demand.of(ranks.values())
            before = summarize(a, demand)
            after = before if b is a else summarize(b, demand)
            found |= {name: after.value(m) - before.value(m) for name, m in ranks.items()}
        return found


def estimates(
    pair: Pair, site: str, cell: Cell, wanted: Collection[str], *, sure: bool, values: Values
) -> dict[str, Estimate]:
    """Estimates of those of `wanted` that exist, from `values` of the cell and of its parts.

    sure: as for `SiteNumbers.missing`. The value is None if the rows have no such number.
    """
    there, parts = _there(pair, site), cell.parts(pair.groups)
    return {
        name: jackknife(
            values[cell, name],
            [values[part, name] for part in (parts if sure or name in OF_ROWS else ())],
            SITE_CHANGES[name].limits,
        )
        for name in wanted
        if name in there
    }


def _there(pair: Pair, site: str) -> Collection[str]:
    """Numbers that exist for the widths of a site's rows."""
    a, b = _widths(pair, site)
    return SITE_CHANGES if a == b else ("cka",)


def _widths(pair: Pair, site: str) -> list[int]:
    """Width of each run's rows."""
    return [view.run.site(site).width for view in (pair.a, pair.b)]


def _square(moments: Moments) -> float:
    """Squared Frobenius norm of the scatter."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.vdot(moments.scatter, moments.scatter))
