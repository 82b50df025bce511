"""Questions about items of an evaluation and about two runs, each as one answer.

As in `studies.answers`, a question takes the store, its settings and a `Progress`, selects once,
computes, puts the numbers into the database and gives the page.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.against import Against, against
from lpp.analyze.drift.drift import drift, n_steps
from lpp.analyze.drift.frames import frames_of
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.gate.conditions import (
    Condition,
    check_conditions,
    family,
    needs_errors,
    parse_condition,
)
from lpp.analyze.drift.gate.verdicts import ALLOWED, Verdict, verdict
from lpp.analyze.drift.pages.against_page import against_page
from lpp.analyze.drift.pages.drift_page import drift_page
from lpp.analyze.drift.pair import Pair, pair_of, run_of
from lpp.analyze.drift.sites import common_sites
from lpp.analyze.drift.tables import Drift, stores, write_drift
from lpp.analyze.engine.executor import Executor
from lpp.analyze.evaluations.analysis import analysis, write_items
from lpp.analyze.evaluations.evaluated import evaluated_items
from lpp.analyze.evaluations.flip_analysis import flip_analysis
from lpp.analyze.evaluations.flips import flips, flips_of_runs
from lpp.analyze.evaluations.pages.flips_page import flips_frames, flips_page, flips_section
from lpp.analyze.evaluations.pages.items_page import items_page
from lpp.analyze.pages.page import Page
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.reply import Reply, reply
from lpp.analyze.questions import DiffSettings, GateSettings, ItemsSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.named import names_of
from lpp.analyze.runs.select import router_sites
from lpp.analyze.tables.database import kept
from lpp.store.errors import InputError
from lpp.store.progress import Progress


def items_answer(
    store: Url,
    task: str,
    run: str | None,
    settings: ItemsSettings,
    *,
    progress: Progress,
) -> Reply:
    """What tells right items of a run from wrong ones; errors are those of `items`."""
    result = analysis(evaluated_items(store, task, run, settings), progress=progress)
    database = kept("The analysis is", lambda: write_items(store, result), progress)
    return reply(items_page(f"{store}", result), settings, stored=database)


def flips_answer(
    store: Url, task: str, a: str, b: str, settings: ItemsSettings, *, progress: Progress
) -> Reply:
    """What tells the items that flip from run `a` to `b`; errors are those of `flipped_items`."""
    result = flip_analysis(flips(store, task, a, b, settings), progress=progress)
    return reply(flips_page(f"{store}", result), settings, stored=True)


def diff_answer(
    store: Url,
    runs: Sequence[str],
    base: str | None,
    settings: DiffSettings,
    gate: GateSettings,
    *,
    progress: Progress,
    executor: Executor,
) -> Reply:
    """What changed from the first to the second of `runs`, or from `base` to each of `runs`.

    With `base`, no `runs` are every run of the store; those that cannot be compared are left out
    with a line. Raises InputError for conditions that no comparison can decide, before anything is
    computed; other errors are those of `diff` and `against`.
    """
    conditions = [parse_condition(condition) for condition in gate.conditions]
    several = None if base is None else against(store, base, runs or None, settings)
    pairs = [_pair(store, runs, settings)] if several is None else several.pairs
    for line in several.lines if several else ():
        progress.warn(line)
    chosen = [common_sites(pair, settings.sites) for pair in pairs]
    for pair, common in zip(pairs, chosen, strict=True):
        with _named(pair, several):
            routers = router_sites(pair.a.run)
            check_conditions(conditions, sites=common, routers=routers, no_logits=pair.no_logits)
    along = several.from_last(settings) if several else []
    progress.expect(sum(n_steps(*each) for each in [*((p, settings) for p in pairs), *along]))
    undecided = {} if several is None else several.undecided
    failed = bool(conditions and undecided)
    parts: list[Mapping[str, pl.DataFrame]] = []
    decided: dict[str, list[Verdict]] = {}
    stored = True
    for pair, common in zip(pairs, chosen, strict=True):
        sure = not gate.strict and needs_errors(conditions, common)
        with _named(pair, several):
            pair_drift = drift(
                pair,
                replace(settings, errors=settings.errors or ("all" if sure else None)),
                metrics=[condition.quantity for condition in conditions if condition.metric],
                executor=executor,
                progress=progress,
            )
            verdicts = _verdicts(pair_drift, conditions, gate, of=family(conditions, len(pairs)))
        database = kept("The comparison is", lambda d=pair_drift: write_drift(d), progress)  # type: ignore[misc]
        stored &= database is not None
        if len(stores(pair)) > 1:
            progress.warn("A and B lie in two stores: the comparison is in no database.")
        failed |= any(v.failed for v in verdicts)
        items = flips_of_runs(pair.a, pair.b)
        if several is None:
            return reply(
                page_of_drift(pair_drift, verdicts, items),
                settings,
                stored=stored,
                beside=gate_page.as_lines(verdicts),
                failed=failed,
            )
        parts.append({**frames_of(pair_drift, tokens=False), **flips_frames(items)})
        if verdicts:
            decided[pair.b.run.id] = verdicts
    assert several is not None
    for pair, at_last in along:
        pair_drift = drift(pair, at_last, executor=executor, progress=progress)
        kept("The comparison is", lambda d=pair_drift: write_drift(d), progress)  # type: ignore[misc]
        parts.append(frames_of(pair_drift, tokens=False))
    names = dict.fromkeys(name for part in parts for name in part)
    frames = {
        name: pl.concat([p[name] for p in parts if name in p], how="diagonal") for name in names
    }
    frames["left_out"] = several.left_out
    page = against_page(frames, several.names, decided, f"{store}", several.steps)
    decided = {b: decided[b] for b in page.runs.order if b in decided}
    return reply(
        page,
        settings,
        stored=stored,
        beside=gate_page.lines_by_run(decided, several.names, undecided),
        failed=failed,
    )


def page_of_drift(
    found: Drift,
    verdicts: Sequence[Verdict] = (),
    tasks: Sequence[Mapping[str, pl.DataFrame] | str] = (),
) -> Page:
    """The page of one comparison. tasks: of `flips_of_runs`. Raises FormatError."""
    a, b = found.pair.runs
    homes = stores(found.pair)
    page = drift_page(
        {**frames_of(found), **flips_frames(tasks)},
        (f"{homes[0]}", a.id, b.id if len(homes) == 1 else f"{homes[1]}::{b.id}"),
        found.settings,
        RunStyles(names_of((a, b))),
        verdicts=verdicts,
        items=[flips_section(task, k) for k, task in enumerate(tasks)],
    )
    return replace(page, origin=origin_of([a] if found.pair.of_one_run else [a, b]))


def _pair(store: Url, runs: Sequence[str], settings: DiffSettings) -> Pair:
    a, b = (run_of(store, name).run for name in runs)
    return pair_of(a, b, settings.prompts, cluster=settings.cluster)


def _verdicts(
    pair_drift: Drift, conditions: Sequence[Condition], gate: GateSettings, *, of: int
) -> list[Verdict]:
    """The verdict of each condition on a comparison. of: intervals that hold together."""
    allowed = ALLOWED if gate.allow_missing is None else gate.allow_missing
    return [
        verdict(
            condition,
            pair_drift.predictions,
            pair_drift.sites,
            lost=pair_drift.pair.lost,
            strict=gate.strict,
            allowed=allowed,
            of=of,
        )
        for condition in conditions
    ]


@contextmanager
def _named(pair: Pair, several: Against | None) -> Iterator[None]:
    """Put the name of run B, one of several, in front of an error about it."""
    try:
        yield
    except InputError as error:
        if several is None:
            raise
        raise InputError(f"{pair.b.run.id}: {error}", kind=error.kind) from None
