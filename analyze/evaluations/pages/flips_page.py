"""The items that flip between two runs of one task, and what tells them, as a page."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.flip_analysis import FlipAnalysis
from lpp.analyze.evaluations.flips import GAINED, LOST, MOVED, Flips, changed_items
from lpp.analyze.evaluations.pages.items_page import independence
from lpp.analyze.evaluations.pages.items_page_tables import feature_tables, without_auroc
from lpp.analyze.evaluations.pages.verdict import Q_READING, SITES, verdict
from lpp.analyze.pages.page import Chart, Figure, Opening, Page, Section, drawing
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Code, Run, Sentence, ends, hundredths, probability, signed
from lpp.analyze.runs.named import names_of_two
from lpp.sql.schema import Column
from lpp.store.objects.place import absolute
from lpp.store.settings.command_line import as_words
from lpp.store.settings.setting import as_python

IN_SHORT: Final = 2
"""Items of each change that text shows without --all, of those the largest lead first."""

BECOME_WRONG: Final = "right items that become wrong from those that stay right"

_CHANGES: Final = {LOST: "becomes wrong", GAINED: "becomes right", MOVED: "stays wrong"}

_COLUMNS: Final = (
    Column("item", "INTEGER", "number of the item in its task"),
    Column("change", "VARCHAR", "from the first run to the second"),
    Column("lead", "DOUBLE", "ln p of the likeliest answer less that of the second, in A", "nats"),
    Column("share_a", "DOUBLE", "probability of the chosen answer among the answers, in A"),
    Column("share_b", "DOUBLE", "probability of the chosen answer among the answers, in B"),
    Column("answers", "VARCHAR", "chosen in A > chosen in B (right one), from 0"),
    Column("question", "VARCHAR", "its end, as the first run read it"),
)

_LEAD: Final = (
    "lead: ln p of the likeliest answer less that of the second, in A; share: probability of the "
    "chosen answer among the answers; answers: chosen in A > chosen in B (right one), from 0; then "
    "the end of the question."
)


def flips_page(store: str, answer: FlipAnalysis) -> Page:
    """The page of two runs of one task; no database is read or written.

    store: its path as it was given. Raises FormatError for altered bytes.
    """
    flips = answer.flips
    runs = styles_of_both(flips)
    lost, right = flips.counts[1], sum(flips.counts[:2])
    result = verdict(answer.features, within=answer.n_within > 0)
    ranked = answer.why_no_ranking is None
    a, b = _named(store, flips)
    words = ["lpp-analyze", "items", store, "--task", flips.a.task, "--run", b, "--against", a]
    again = shlex.join([*words, *as_words(answer.settings), "-o", "flips.html"])
    call = (
        "from lpp.analyze import ItemsSettings, flipped_items\n"
        "from lpp.analyze.evaluations.flips import changed_items\n\n"
        f"found = flipped_items({store!r}, {flips.a.task!r}, {a!r}, {b!r}, "
        f"{as_python(answer.settings)})"
    )
    tables: tuple[Table, ...] = ()
    if ranked:
        # meanings of the database's columns are about right items
        tables = feature_tables(
            answer.features, result, lambda _: f"{call}\nfound.features", declared={}
        )
        tables = tuple(replace(t, brief=t.brief and t.name != SITES) for t in tables)
    notes = without_auroc(answer.features) if ranked else [(f"{answer.why_no_ranking}",)]
    return Page(
        title="Items that flip between two runs",
        about=(Code(flips.a.task), ": from ", *_both(flips)),
        opening=_opening(flips),
        findings=(
            *([result.sentence(BECOME_WRONG)] if ranked else []),
            *((f"{note.rstrip('.')}.",) for note in answer.notes),
        ),
        sections=(
            Section(
                "features",
                f"What tells the {lost:,} of {right:,} right items of A that are wrong in B",
                Q_READING if ranked else "",
                charts=tuple(_charts(answer, tables, runs)),
                tables=tables,
                notes=tuple(notes),
                short="What tells them",
                more=_reading(answer) if ranked else "",
            ),
            Section(
                "changed",
                "Items whose answer changed, the largest lead first",
                tables=_changed(flips, "changed", f"{call}\nchanged_items(found.flips)"),
                short="Items",
                more=_LEAD,
            ),
            Section("again", "The command", notes=((Code(again),),), brief=False),
        ),
        runs=runs,
        next=(f"lpp-analyze diff {shlex.quote(store)} {shlex.join([a, b])}",),
        data={
            "item_changes": changed_items(flips),
            "item_flips": flips_frames([flips])["item_flips"].with_columns(
                pl.lit(answer.why_no_ranking, pl.String).alias("why_no_ranking"),
                pl.lit(answer.n_groups).alias("n_groups"),
                pl.lit(answer.n_within).alias("n_within"),
            ),
            "features": answer.features,
        },
        store=store,
        origin=origin_of([side.view.run for side in (flips.a, flips.b)]),
    )


def flips_section(flips: "Flips | str", place: int = 0) -> Section:
    """The section on one task of a page about two runs: what flips, or why it is not known.

    place: of the task among those of the page.
    """
    name = f"items-{place}"
    if isinstance(flips, str):
        return Section(name, "Items", notes=((flips,),))
    call = f"flips(STORE, {flips.a.task!r}, {flips.a.view.run.id!r}, {flips.b.view.run.id!r})"
    changed = _changed(flips, f"{name}-changed", f"changed_items({call})")
    return Section(
        name,
        f"Items of {flips.a.task}",
        tables=changed,
        notes=(_conclusion(flips), _counts(flips), *_cautions(flips)),
        more=_LEAD if changed else "",
    )


def styles_of_both(flips: Flips) -> RunStyles:
    """The style of both runs, which may be of two stores."""
    views = flips.a.view, flips.b.view
    names = names_of_two(*views)
    return RunStyles({view.run.id: name for view, name in zip(views, names, strict=True)})


# sentences


def _both(flips: Flips) -> Sentence:
    return Run(flips.a.view.run.id), " to ", Run(flips.b.view.run.id)


def _conclusion(flips: Flips) -> Sentence:
    _, lost, gained, _ = flips.counts
    accuracy = flips.accuracy
    low, high = accuracy.interval
    value = f"{signed(accuracy.difference)} [{signed(low)}, {signed(high)}]"
    moves = "falls" if accuracy.difference < 0 else "rises"
    change = (
        f"accuracy {moves} by more than chance"
        if low > 0 or high < 0
        else ("the difference of the accuracies is within chance")
    )
    return (
        "From ",
        *_both(flips),
        f" {lost + gained:,} of {accuracy.n:,} items of ",
        Code(flips.a.task),
        f" flip, {lost:,} to wrong and {gained:,} to right: {change}, {value}.",
    )


def _counts(flips: Flips) -> Sentence:
    both, lost, gained, neither = flips.counts
    moved = int((flips.table["change"] == MOVED).sum())
    other = f", of these {moved:,} with another wrong answer" if moved else ""
    return (
        f"Right in both {both:,}, in A alone {lost:,}, in B alone {gained:,}, in neither "
        f"{neither:,}{other}. {_test(flips)}: {probability(flips.accuracy.p_value)}.",
    )


def _test(flips: Flips) -> str:
    return (
        "McNemar's exact p" if flips.a.cluster is None else "p by cluster (Durkalski et al. 2003)"
    )


def _cautions(flips: Flips) -> Iterator[Sentence]:
    """How the items of the runs differ."""
    if flips.a.source != flips.b.source:
        yield (f"Sources: {flips.a.source} (A), {flips.b.source} (B).",)
    for name, side, alone in zip("AB", (flips.a, flips.b), flips.n_alone, strict=True):
        for why, count in side.left_out.items():
            yield (f"{count:,} items of {name} are left out: {why}.",)
        if alone:
            yield (f"{alone:,} items are in {name} alone.",)


def _opening(flips: Flips) -> Opening:
    _, lost, gained, _ = flips.counts
    accuracy = flips.accuracy
    low, high = accuracy.interval
    return Opening(
        _conclusion(flips),
        f"{accuracy.n:,} items, {independence(flips.a.cluster, flips.n_clusters)}, paired",
        (
            ("flipped", "items"),
            ("accuracy", "of A"),
            ("accuracy", "of B"),
            ("difference", "B less A"),
        ),
        (
            (
                Figure(f"{lost + gained:,}"),
                Figure(hundredths(accuracy.first)),
                Figure(hundredths(accuracy.second)),
                Figure(signed(accuracy.difference), ends(low, high, signed)),
            ),
        ),
        (_counts(flips), *_cautions(flips)),
    )


def _reading(answer: FlipAnalysis) -> str:
    within = (
        f" Within groups: pairs of one group alone, {answer.n_within:,} items; partial and q are "
        "of them."
        if answer.n_within
        else ""
    )
    return (
        "AUROC: probability that an item that becomes wrong has the larger value than one that "
        "stays right; 0.50 says nothing, below 0.50 those that stay right have the larger one. "
        f"Partial: of what {' and '.join(answer.covariates)} in A leave of the feature's "
        f"ranks.{within} Role drift: from A to B, before the answer."
    )


# tables and chart


def _changed(flips: Flips, name: str, code: str) -> tuple[Table, ...]:
    """Items whose answer changed; none: no table. code: Python that gives them."""
    changed = changed_items(flips)
    if changed.is_empty():
        return ()
    gold = pl.format(" ({})", "gold").fill_null("")
    rows = changed.select(
        "item",
        pl.col("change").replace(_CHANGES),
        lead="gap_a",
        share_a="share_a",
        share_b="share_b",
        answers=pl.format("{} > {}{}", "chosen_a", "chosen_b", gold),
        question="text",
    )
    rows = rows.select(column for column in rows if column.null_count() < len(column))
    return (
        table_of(
            name,
            "Items whose answer changed, the largest lead first",
            rows,
            {column.name: column for column in _COLUMNS},
            first=[column.name for column in _COLUMNS],
            styles=dict.fromkeys(("lead", "share_a", "share_b"), "hundredths"),
            labels={"share_a": "share A", "share_b": "share B"},
            key=("item",),
            code=code,
            short=pl.concat(rows.filter(change=c).head(IN_SHORT) for c in _CHANGES.values()),
        ),
    )


def _charts(answer: FlipAnalysis, tables: Sequence[Table], runs: RunStyles) -> Iterator[Chart]:
    for table in tables:
        if table.name == SITES:
            yield Chart(
                "flips-depth",
                "features",
                table,
                "AUROC by depth",
                "Each feature of the rows, at each site, with its 95 % interval, within groups "
                "where there are any. Grey: where 95 % of draws with shuffled labels lie. Dashed: "
                "the baselines, and the best feature of the predictions of A.",
                drawing("item_depth_chart", answer.features, runs=runs),
                opens=True,
            )


def flips_frames(tasks: Sequence[Flips | str]) -> dict[str, pl.DataFrame]:
    """Tables for programs: `item_flips`, a row for each task with its counts or why there are none,
    and `item_changes`, every item whose answer changed. Empty without tasks.
    """
    if not tasks:
        return {}
    known = [flips for flips in tasks if not isinstance(flips, str)]
    changed = [changed_items(flips).select(*_which(flips), pl.all()) for flips in known]
    rows = [{"why_none": x} if isinstance(x, str) else _counted(x) for x in tasks]
    return {
        "item_flips": pl.DataFrame(rows, infer_schema_length=None),
        "item_changes": pl.concat(changed) if changed else pl.DataFrame(),
    }


def _which(flips: Flips) -> list[pl.Expr]:
    """The task and both runs, as columns."""
    words = {"task": flips.a.task, "run_a": flips.a.view.run.id, "run_b": flips.b.view.run.id}
    return [pl.lit(word).alias(name) for name, word in words.items()]


def _counted(flips: Flips) -> dict[str, Any]:
    """The row of a task."""
    both, lost, gained, neither = flips.counts
    accuracy = flips.accuracy
    low, high = accuracy.interval
    sides = {
        f"{name}_{letter}": value
        for letter, side, alone in zip("ab", (flips.a, flips.b), flips.n_alone, strict=True)
        for name, value in {
            "run": side.view.run.id,
            "source": side.source,
            "model": side.model,
            "n_left_out": sum(side.left_out.values()),
            "n_alone": alone,
        }.items()
    }
    return {
        "task": flips.a.task,
        "filter": flips.a.filter,
        **sides,
        "n_items": accuracy.n,
        "cluster": flips.a.cluster,
        "n_clusters": flips.n_clusters,
        "right_in_both": both,
        "right_to_wrong": lost,
        "wrong_to_right": gained,
        "wrong_in_both": neither,
        "other_wrong_answer": int(flips.table["change"].eq_missing(MOVED).sum()),
        "accuracy_a": accuracy.first,
        "accuracy_b": accuracy.second,
        "difference": accuracy.difference,
        "difference_ci_low": low,
        "difference_ci_high": high,
        "mcnemar_p": accuracy.p_value,
        "why_none": None,
    }


def _named(store: str, flips: Flips) -> tuple[str, ...]:
    """Both runs as commands take them: `STORE::RUN` of another store."""
    runs = [side.view.run for side in (flips.a, flips.b)]
    home = absolute(store)
    return tuple(
        run.id if absolute(run.directory.root) == home else f"{run.directory.root}::{run.id}"
        for run in runs
    )
