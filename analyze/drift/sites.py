"""What changed inside: every site of two runs, by row and as a space (METRICS.md, Drift).

The rows of both runs are read in step, one block at a time. Relative distance and cosine take half
as long as that reading. CKA needs A^T B as well, N d^2 multiply-adds, and the spectra of A and B,
half as many each. Overlap and ranks need spectra alone. A profile keeps the spectra of its run with
the leading eigenvectors of the whole context, and a comparison those of both, so only A^T B is
multiplied again (`site_numbers`). Products are summed
in float64. In float32, whose products of bfloat16 are exact, blocks of 128 to 1,024 rows put
||A^T B||^2 of a model of 135 million parameters wrong by 1e-9 to 2e-7 of itself: too much where
1 - CKA, of quantised models, is as small. `only` can exclude the products.

Errors are jackknifes that leave the same group of prompts out of both runs. Relative distance,
cosine and SQNR always have errors, which come from sums. For the other numbers each group is read
and multiplied again, and two eigenproblems are solved for it. So, as in `profile`, only `final` has
these errors by default.

Every number is stored (`drift.kept`), with the values behind its error; only missing ones are
computed. A site is one task, in a thread or on a cluster.

Where all rows of both runs are equal, CKA and overlap are 1, differences 0, SQNR infinite: exactly.

Memory does not depend on the number of tokens: 40 d^2 bytes and two blocks of rows for each thread,
and for spectra that of a profile. Fewer threads than `jobs` are used if that would not fit.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from lpp.analyze.drift.gate.metric_changes import site_changes
from lpp.analyze.drift.kept import KeptDrift
from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.site_numbers import CROSS, PairRows, RunSpectra, SiteNumbers
from lpp.analyze.engine.executor import Executor, LocalExecutor
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.summary import Summary
from lpp.analyze.numerics.cka import BLOCK_ROWS
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.quantities.drift import SITE_CHANGES
from lpp.analyze.quantities.tables import columns_of, frame_schema, shared
from lpp.analyze.questions import ErrorSites
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.named import names_of_two
from lpp.analyze.runs.select import listed, matching, router_sites
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, values_first
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import SILENT, Progress

__all__ = ["SiteDrift", "common_sites", "site_drift", "why_missing"]

DRIFT_SITES: Final = Table(
    "drift_sites",
    "change of the rows of a site from the first run to the second",
    "lpp-analyze diff STORE RUN_A RUN_B",
    ("run_a", "run_b", "n_prompts", "first_position", "site"),
    (
        *shared("run_a run_b n_prompts first_position site depth"),
        Column("n_tokens", "BIGINT", "N: rows of each run", "tokens"),
        *values_first(*(columns_of(change, ERRORS) for change in SITE_CHANGES.values())),
        *shared("flags cluster"),
    ),
    merging=Merging(),
)

SITE_KEYS: Final = frame_schema(DRIFT_SITES.columns[4:7])

SITES_SCHEMA: Final = pl.Schema(
    SITE_KEYS
    | {column: pl.Float64 for parts in DRIFT_SITES.numbers.values() for column in parts.values()}
)
"""A row for each site, in depth order: each number, its standard error and its interval."""

_NONE: Final = Estimate(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDrift:
    """How one site of run B differs from that of run A; the value is None if there is no number.

    A site with non-finite rows has no numbers; `why_missing` gives every other reason.
    """

    site: str
    depth: int
    """Depth in blocks of run A."""
    n_tokens: int
    router: bool = False
    numbers: Mapping[str, Estimate]
    """By name: those of `SITE_CHANGES`, which are also attributes, such as `cka`, and differences
    of further metrics that were asked for."""

    def __getitem__(self, name: str) -> Estimate:
        return self.numbers.get(name, _NONE)

    def __getattr__(self, name: str) -> Estimate:
        if name not in SITE_CHANGES:
            raise AttributeError(name)
        return self[name]


def site_drift(
    pair: Pair,
    sites: Sequence[str] | None = None,
    *,
    first_position: int = 0,
    prefix: int | None = None,
    errors: ErrorSites = "final",
    only: Collection[str] = tuple(SITE_CHANGES),
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> list[SiteDrift]:
    """Every number of `only` at each site that both runs hold, in depth order.

    only: names of `SITE_CHANGES`, and of metrics of the rows, whose difference is computed as well.
    sites: names or patterns; all by default. first_position, prefix: use the tokens at positions
    from `first_position` to below `prefix`, by default up to the context that both runs share.
    errors: the sites with an error of CKA, overlap and differences of metrics; final: `final`, or
    the deepest chosen site. jobs: threads; one for each usable core by default. executor: replaces
    these threads. The bits are the same for any. progress: advances by a site's tokens.

    Raises InputError for a site that one of the runs lacks, and for positions that the runs do not
    both have; FormatError for altered bytes.
    """
    cell = compared_cell(pair, first_position, prefix)
    chosen = common_sites(pair, sites)
    needs_error = {
        site: errors == "all" or (errors == "final" and site == chosen[-1]) for site in chosen
    }
    who = executor or LocalExecutor(jobs)
    questions = [
        SiteNumbers.of(pair, site, cell, only, sure=sure) for site, sure in needs_error.items()
    ]
    numbers = _estimates(pair, questions, who, progress)
    drifts = []
    names = names_of_two(pair.a, pair.b)
    for site, of_site in zip(chosen, numbers, strict=True):
        drifts.append(
            SiteDrift(
                site=site,
                depth=pair.a.run.plan.depth_of(site),
                n_tokens=n_tokens(pair.lengths, cell),
                router=site in router_sites(pair.a.run),
                numbers=of_site,
            )
        )
        progress.advance(pair.n_tokens(first_position))
        progress.note(f"{site} of {' and '.join(names)}")
    if metrics := [METRICS[name] for name in only if name not in SITE_CHANGES]:
        there = pair.a.run.activation_sites
        of_rows = {site: sure for site, sure in needs_error.items() if site in there}
        changes = dict(zip(of_rows, site_changes(pair, cell, metrics, of_rows, who), strict=True))
        drifts = [
            replace(drift, numbers={**drift.numbers, **changes.get(drift.site, {})})
            for drift in drifts
        ]
    return drifts


def _estimates(
    pair: Pair, questions: Sequence[SiteNumbers], executor: Executor, progress: Progress
) -> Iterator[dict[str, Estimate]]:
    """The estimates of each site, in order: kept numbers, and the others computed."""
    files = KeptDrift(pair)
    spectra = _summaries(pair, questions, executor, progress)
    kept_values = [files.values(q.site) for q in questions]
    missing = [q.pair_rows(values) for q, values in zip(questions, kept_values, strict=True)]
    tasks = [rows for rows in missing if not rows.is_nothing]
    most = max(map(_bytes, tasks), default=1)
    computed = executor.map(PairRows.compute, tasks, item_bytes=most)
    for q, rows, values in zip(questions, missing, kept_values, strict=True):
        new = {} if rows.is_nothing else next(computed)
        if new:
            files.keep_values(q.site, new)
        yield q.estimates(values | new, *(spectra[q.of_run(v).key] for v in (pair.a, pair.b)))


def _summaries(
    pair: Pair, questions: Sequence[SiteNumbers], executor: Executor, progress: Progress
) -> dict[tuple[str, str], dict[Cell, Summary]]:
    """The summaries of both runs, by run and site: kept ones, and the others computed and kept."""
    of_runs = (q.of_run(view) for q in questions for view in (pair.a, pair.b))
    spectra = {of_run.key: of_run for of_run in of_runs}
    summaries = {key: of_run.cached_summaries() for key, of_run in spectra.items()}
    missing = {key: of_run.without(summaries[key]) for key, of_run in spectra.items()}
    tasks = [task for task in missing.values() if task.demands]
    most = max((task.bytes for task in tasks), default=1)
    computed = executor.map(RunSpectra.compute, tasks, item_bytes=most)
    views = (pair.a, pair.b)
    names = dict(zip((view.run.id for view in views), names_of_two(*views), strict=True))
    for task, new in zip(tasks, computed, strict=True):
        task.cache.keep_summaries(task.site, new)
        summaries[task.key] |= new
        progress.note(f"spectra at {task.site} of {names[task.view.run.id]}")
    return summaries


def site_frame(sites: Sequence[SiteDrift]) -> pl.DataFrame:
    """A row for each site: columns `SITES_SCHEMA`."""
    rows = [
        (
            *(site.site, site.depth, site.n_tokens),
            *(end for number in SITE_CHANGES for end in site[number][: 1 + len(ERRORS)]),
        )
        for site in sites
    ]
    return pl.DataFrame(rows, schema=SITES_SCHEMA, orient="row")


def common_sites(pair: Pair, sites: Sequence[str] | None = None) -> list[str]:
    """Sites that both runs hold and that match `sites`, names or patterns; all by default.

    In depth order; none if a run has predictions alone. Raises InputError for a pattern that
    matches none.
    """
    a, b = pair.a.run, pair.b.run
    kept = {*a.activation_sites} & {*b.activation_sites} | {*router_sites(a)} & {*router_sites(b)}
    common = [site for site in a.sites if site in kept]
    if not common:
        alone = not (a.activation_sites and b.activation_sites)
        if (
            alone
            and "*" in (sites or "*")
            and all(r.plan.logit_positions != "none" for r in (a, b))
        ):
            return []
        raise InputError(
            f"runs {a.id} and {b.id} hold no site in common that has hidden states: "
            f"{listed(a.sites)} and {listed(b.sites)}. Capture both again with the same --sites.",
            kind=ErrorKind.NOT_FOUND,
        )
    return matching("site", sites or ["all"], common, option="--sites")


def why_missing(pair: Pair, site: str) -> str | None:
    """Why `site_drift` lacks numbers of a site, whatever its rows hold; None if it does not."""
    a, b = pair.a.run, pair.b.run
    width, other = (run.site(site).width for run in (a, b))
    if width == other:
        return None
    return (
        f"{site} has {width} columns in run {a.id} and {other} in {b.id}: rows of different "
        "widths have a CKA and nothing else"
    )


def compared_cell(pair: Pair, first_position: int = 0, prefix: int | None = None) -> Cell:
    """The compared tokens. Raises InputError for positions that do not exist."""
    shared = min(view.run.plan.context for view in (pair.a, pair.b))
    end = shared if prefix is None else prefix
    if not 0 <= first_position < end <= shared:
        raise InputError(
            f"positions from {first_position} to below {end}: both runs have positions 0 to "
            f"{shared - 1}. Skip fewer with --skip-first."
        )
    return Cell(pair.n_prompts, end, first_position=first_position)


def _bytes(rows: PairRows) -> int:
    """Most memory that a thread takes, in bytes, estimated."""
    width = max(run.site(rows.site).width for run in rows.pair.runs)
    squares = 5 * 8 * width**2 if CROSS in rows.values | rows.errors else 0
    return squares + BLOCK_ROWS * width * 2 * (2 * 4 + 8) + (16 << 20)
