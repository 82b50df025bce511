"""What changed inside: every site of two runs, row by row and as a space (METRICS.md, Drift).

The rows of both runs pass in step, once, a block at a time. Relative distance and cosine take half
as long as that reading. CKA, overlap and ranks need the products A^T A, B^T B and A^T B: 2 N d^2
multiply-adds, in float64, since what quantising leaves of 1 - CKA is often within the rounding of
float32. At d = 576 they take 35 microseconds of one core a token, twenty times the reading; `only`
leaves them out.

Errors leave the same group of prompts out of both runs. Those of relative distance and cosine are
always there: they are made of sums. For the others a group is read again, its products are made
again, and two matrices are solved for each group: so, as in `profile`, they are made at `final` by
default.

Every number is kept (`drift.kept`), and so is what the errors are made of: only what is missing is
computed again. A site is one task, in a thread or on a cluster.

While the rows of both runs are equal, the products of one are those of all three, and nothing is
multiplied twice; at the end of such a site CKA and overlap are 1 and the differences 0, exactly.

Memory, whatever the number of tokens: at a site 24 d^2 bytes, beside them 96 d^2 for each thread,
and two blocks of rows. Fewer threads than `jobs` work where that would not fit.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from lpp.analyze.drift.kept import KeptDrift
from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.site_moments import moment_estimates, why_no_moments
from lpp.analyze.drift.site_numbers import (
    NUMBERS,
    OF_ROWS,
    RANKS,
    Number,
    SiteNumbers,
    estimates,
)
from lpp.analyze.engine.executor import Executor, LocalExecutor
from lpp.analyze.numerics.cka import BLOCK_ROWS
from lpp.analyze.numerics.jackknife import ERRORS, Estimate, error_names
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.keys import depth
from lpp.analyze.runs.select import listed, matching
from lpp.analyze.tables.analysis import ErrorSites
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError

__all__ = ["NUMBERS", "RANKS", "Number", "SiteDrift", "common_sites", "site_drift", "why_missing"]

SITE_KEYS: Final = pl.Schema({"site": pl.String, "depth": pl.Int32, "n_tokens": pl.Int64})

SITES: Final = pl.Schema(
    dict(SITE_KEYS)
    | {column: pl.Float64 for number in NUMBERS for column in (number, *error_names(number))}
)
"""A row for each site, in depth order: each number, its standard error and its interval."""

_NONE: Final = Estimate(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDrift:
    """How one site of run B differs from that of run A; value None where there is no number.

    A site whose rows are not finite has no numbers; `why_missing` gives every other reason.
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
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> list[SiteDrift]:
    """Every number of `only` at each site that both runs hold, in depth order.

    sites: names or patterns; all by default. first_position, prefix: of the tokens at positions
    from one to below the other; up to the context that both share by default. errors: the sites
    with an error of CKA, overlap and rank differences; final: `final`, or the deepest chosen.
    jobs: threads; one for each usable core by default. executor: who computes, in place of so many
    threads. The bits are the same for any. progress: advances by one for each site.

    Raises InputError for a site that one of the runs lacks, and for positions that both do not
    have; FormatError for altered bytes.
    """
    cell = _cell(pair, first_position, prefix)
    names = common_sites(pair, sites)
    asked = [(site, errors == "all" or (errors == "final" and site == names[-1])) for site in names]
    who = executor or LocalExecutor(jobs)
    both = all(view.run.plan.keeps_rows for view in (pair.a, pair.b))
    numbers = (_of_rows if both else moment_estimates)(pair, asked, cell, only, who)
    found = []
    for site, of_site in zip(names, numbers, strict=True):
        found.append(
            SiteDrift(
                site=site,
                depth=depth(site, pair.a.run.plan.model.n_blocks),
                n_tokens=n_tokens(pair.lengths, cell),
                **of_site,
            )
        )
        progress.advance()
        progress.note(f"{pair.a.run.id} and {pair.b.run.id}: {site}")
    return found


def _of_rows(
    pair: Pair,
    sites: Sequence[tuple[str, bool]],
    cell: Cell,
    wanted: Collection[Number],
    executor: Executor,
) -> Iterator[dict[Number, Estimate]]:
    """Those of `wanted` that there are, of each site in order; sites: each with whether its numbers
    get an error.
    """
    files = KeptDrift(pair)
    kept = {site: files.values(site) for site, _ in sites}
    missing = [
        SiteNumbers.missing(pair, site, cell, wanted, sure=sure, kept=kept[site])
        for site, sure in sites
    ]
    tasks = [one for one in missing if not one.is_nothing]
    most = max((_bytes(one) for one in tasks), default=1)
    found = executor.map(SiteNumbers.compute, tasks, item_bytes=most)
    for one, (site, sure) in zip(missing, sites, strict=True):
        values = kept.pop(site)
        if not one.is_nothing:
            new = next(found)
            files.keep_values(site, new)
            values |= new
        yield estimates(pair, site, cell, wanted, sure=sure, values=values)


def site_frame(found: Sequence[SiteDrift]) -> pl.DataFrame:
    """A row for each site: columns `SITES`."""
    rows = [
        (
            *(one.site, one.depth, one.n_tokens),
            *(end for number in NUMBERS for end in getattr(one, number)[: 1 + len(ERRORS)]),
        )
        for one in found
    ]
    return pl.DataFrame(rows, schema=SITES, orient="row")


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
    return matching("site", sites or ["all"], common, option="--sites")


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
    unheld = why_no_moments(pair, _cell(pair, first_position, prefix))
    left = f"and no moments of these tokens: {unheld}" if unheld else "so ranks alone are compared"
    return (
        f"{' and '.join(bare)}: keeps moments and no rows, {left}. Capture again with --keep rows "
        "or --keep both"
    )


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


def _bytes(numbers: SiteNumbers) -> int:
    """About the most memory that a thread takes."""
    views = numbers.pair.a, numbers.pair.b
    width = max(view.run.site(numbers.site).width for view in views)
    products = (numbers.values | numbers.errors).difference(OF_ROWS)
    squares = 15 * 8 * width**2 if products else 0
    return squares + BLOCK_ROWS * width * 2 * (2 * 4 + 8) + (16 << 20)
