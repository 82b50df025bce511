"""What changed inside: every site of two runs, row by row and as a space (METRICS.md, Drift).

The rows of both runs pass in step, once, a block at a time. Relative distance and cosine need no
more than that and cost less than the reading. CKA, overlap and ranks need the products A^T A,
B^T B and A^T B: 2 N d^2 multiply-adds, in float64, since what quantising leaves of 1 - CKA is
often within the rounding of float32. At d = 576 they cost ten times the reading; `only` leaves them
out.

Errors leave the same group of prompts out of both runs. Those of relative distance and cosine are
always there: they are made of sums. For the others a group is read again, its products are made
again, and two matrices are solved for each group: so, as in `profile`, they are made at `final` by
default.

While the rows of both runs are equal, the products of one are those of all three, and nothing is
multiplied twice; at the end of such a site CKA and overlap are 1 and the differences 0, exactly.

Memory, whatever the number of tokens: at a site 24 d^2 bytes, beside them 96 d^2 for each thread,
and two blocks of rows. Fewer threads than `jobs` work where that would not fit.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.site_sums import BOTH, PairScatters, RowMeans
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request, site_estimates
from lpp.analyze.engine.stored_moments import holds
from lpp.analyze.engine.workers import MEMORY_SHARE, Workers, free_bytes
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.summary import Demand, summarize
from lpp.analyze.numerics.cka import BLOCK_ROWS, CrossScatters, alignment
from lpp.analyze.numerics.jackknife import Estimate, jackknife, jackknife_difference
from lpp.analyze.numerics.leading import leading_eigenvectors, subspace_overlap
from lpp.analyze.numerics.moments import Moments, Rows
from lpp.analyze.numerics.row_drift import row_drift
from lpp.analyze.runs.cells import GROUPS, Cell, Integers, n_tokens
from lpp.analyze.runs.keys import RunView, depth
from lpp.analyze.runs.moments_held import listed_numbers
from lpp.analyze.runs.select import listed, matching
from lpp.analyze.runs.side_by_side import in_step
from lpp.analyze.runs.site_reader import SiteReader
from lpp.analyze.tables.analysis import ErrorSites
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError

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

_NONE: Final = Estimate(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDrift:
    """How one site of run B differs from that of run A; value None where there is no number.

    There is none of any site whose rows are not finite, and none where `why_missing` says so.
    """

    site: str
    depth: int
    """In blocks of run A."""
    n_tokens: int
    relative_distance: Estimate = _NONE
    """Mean over tokens of |a - b| / |a|. 0 over 0 is 0. No number where a row is 0 in A alone: a
    mean over the others would hide the largest change."""
    cosine: Estimate = _NONE
    """Mean over tokens of the cosine of a and b; 1 where both are 0. No number where a row is 0 in
    one run alone."""
    cka: Estimate = _NONE
    """Linear CKA over all rows. No number without variance."""
    overlap: Estimate = _NONE
    """||U_A^T U_B||_F^2 / k of the k leading eigenvectors of the covariance: ten, or as many as
    both have eigenvalues other than 0."""
    participation_ratio: Estimate = _NONE
    """B less A, in dimensions."""
    effective_rank: Estimate = _NONE
    """B less A, in dimensions."""


def site_drift(
    pair: Pair,
    sites: Sequence[str] | None = None,
    *,
    first_position: int = 0,
    prefix: int | None = None,
    errors: ErrorSites = "final",
    only: Collection[Number] = NUMBERS,
    jobs: int | None = None,
    progress: Progress = SILENT,
) -> list[SiteDrift]:
    """Every number of `only` at each site that both runs hold, in depth order.

    sites: names or patterns; all by default. first_position, prefix: of the tokens at positions
    from one to below the other; up to the context that both share by default. errors: the sites
    with an error of CKA, overlap and rank differences; final: `final`, or the deepest chosen.
    jobs: threads; one for each usable core by default. The bits are the same for any number.
    progress: advances by one for each site.

    Raises InputError for a site that one of the runs lacks, and for positions that both do not
    have; FormatError for altered bytes.
    """
    cell = _cell(pair, first_position, prefix)
    names = common_sites(pair, sites)
    most = max(_bytes(pair, site, only) for site in names)
    room = max(1, int(free_bytes() * MEMORY_SHARE) // most)
    found = []
    with Workers(min(jobs or usable_cores(), room)) as workers:

        def compute(site: str) -> SiteDrift:
            sure = errors == "all" or (errors == "final" and site == names[-1])
            return _Site(pair, site, cell, only, GROUPS if sure else 0, workers).drift()

        for one in workers.map(compute, names, workers.jobs):
            found.append(one)
            progress.advance()
            progress.note(f"{pair.a.run.id} and {pair.b.run.id}: {one.site}")
    return found


def common_sites(pair: Pair, sites: Sequence[str] | None = None) -> list[str]:
    """Sites that both runs hold and that fit `sites`, names or patterns; all by default.

    In depth order. Raises InputError for a pattern that fits none.
    """
    a, b = pair.a.run, pair.b.run
    common = [site for site in a.sites if site in b.sites]
    if not common:
        raise InputError(
            f"runs {a.id} and {b.id} hold no site in common: {listed(a.sites)} and "
            f"{listed(b.sites)}. Capture one of them again with the --sites of the other.",
            kind=ErrorKind.NOT_FOUND,
        )
    return matching("site", sites if sites is not None else ["all"], common, option="--sites")


def why_missing(
    pair: Pair, site: str, *, first_position: int = 0, prefix: int | None = None
) -> str | None:
    """Why `site_drift` has not every number of a site, whatever its rows hold; else None."""
    a, b = pair.a.run, pair.b.run
    width, other = (run.site(site).width for run in (a, b))
    bare = list(dict.fromkeys(run.id for run in (a, b) if not run.plan.keeps_rows))
    if width != other:
        left = "have nothing that is comparable" if bare else "have a CKA and nothing else"
        return (
            f"{site} has {width} columns in run {a.id} and {other} in {b.id}: rows of different "
            f"widths {left}"
        )
    if not bare:
        return None
    unheld = _why_no_moments(pair, _cell(pair, first_position, prefix))
    left = f"and no moments of these tokens: {unheld}" if unheld else "so ranks alone are compared"
    return (
        f"{' and '.join(bare)}: keeps moments and no rows, {left}. Capture again with --keep rows "
        "or --keep both"
    )


def _why_no_moments(pair: Pair, cell: Cell) -> str | None:
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


def _cell(pair: Pair, first_position: int, prefix: int | None) -> Cell:
    """The tokens compared. Raises InputError for positions that there are not."""
    shared = min(view.run.plan.context for view in (pair.a, pair.b))
    end = shared if prefix is None else prefix
    if not 0 <= first_position < end <= shared:
        raise InputError(
            f"positions from {first_position} to below {end}: both runs have positions 0 to "
            f"{shared - 1}. Skip fewer with --skip-first.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return Cell(pair.n_prompts, end, first_position=first_position)


def _bytes(pair: Pair, site: str, wanted: Collection[Number]) -> int:
    """About the most memory that a thread takes."""
    width = max(view.run.site(site).width for view in (pair.a, pair.b))
    squares = 15 * 8 * width**2 if {*wanted}.difference(OF_ROWS) else 0
    return squares + BLOCK_ROWS * width * 2 * (2 * 4 + 8) + (16 << 20)


@dataclass(frozen=True, slots=True)
class _Site:
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
    def lengths(self) -> Integers:
        """(n,) tokens of each prompt; 0 for those left out."""
        lengths = self.pair.a.lengths[: self.cell.n_prompts].copy()
        lengths[self.pair.left_out] = 0
        return lengths

    def drift(self) -> SiteDrift:
        """Its numbers."""
        both = all(view.run.plan.keeps_rows for view in self.views)
        found = self._of_rows() if both else self._of_moments()
        return SiteDrift(
            site=self.site,
            depth=depth(self.site, self.pair.a.run.plan.model.n_blocks),
            n_tokens=n_tokens(self.lengths, self.cell),
            **{name: one for name, one in found.items() if name in self.wanted},
        )

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
        SiteReader(self.pair.a.run, self.site, self.lengths).check(self.cell, n)
        found: dict[Number, Estimate] = {}
        if means:
            limits = [LIMITS[name] for name in OF_ROWS]
            found |= zip(OF_ROWS, means.estimates(limits), strict=True)
        return found | (self._of_products(sums) if sums else {})

    def _tokens(self, prompts: range) -> Iterator[tuple[Integers, Integers, Rows, Rows]]:
        """Prompt, position and both rows of the tokens of `cell` in `prompts`."""
        sources = [(view.run, self.site) for view in self.views]
        steps = in_step(sources, prompts, block_rows=BLOCK_ROWS, left_out=self.pair.left_out)
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
        if self.widths[0] != self.widths[1] or _why_no_moments(self.pair, self.cell):
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
