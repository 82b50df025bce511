"""The items that flip between two runs of one task, and what separates them, as a page.

Everything is made of rows: `item_flips`, `item_changes` and `item_features` of an analysis.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.pages.items_page import independence
from lpp.analyze.evaluations.pages.items_page_tables import feature_tables, without_auroc
from lpp.analyze.evaluations.pages.verdict import Q_READING, SITES, Row, verdict
from lpp.analyze.evaluations.tables import GAINED, ITEM_FLIPS, LOST, MOVED, ItemAnalysis
from lpp.analyze.pages.page import Chart, Figure, Opening, Page, Section, drawing
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Code, code, ends, hundredths, probability, run, say, signed
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
    Column("change", "VARCHAR", "how the item changes from the first run to the second"),
    Column("lead", "DOUBLE", "ln p of the likeliest answer - ln p of the second, in A", "nats"),
    Column("share_a", "DOUBLE", "probability of the chosen answer among the answers, in A"),
    Column("share_b", "DOUBLE", "probability of the chosen answer among the answers, in B"),
    Column("answers", "VARCHAR", "answer of A > answer of B (right answer); indices from 0"),
    Column("question", "VARCHAR", "end of the question, as the first run read it"),
)

_LEAD: Final = (
    "lead: ln p of the likeliest answer minus ln p of the second likeliest, in A; share: "
    "probability of the chosen answer among the answers; answers: answer of A > answer of B "
    "(right answer), indices from 0; question: the end of its text."
)


def flips_page(store: str, analysis: ItemAnalysis) -> Page:
    """The page of two runs of one task; no database is read or written.

    store: its path as it was given. Raises FormatError for altered bytes.
    """
    features, changed = analysis.features_frame(), analysis.changes_frame()
    row = analysis.row
    runs = RunStyles(
        dict(zip((row["run_a"], row["run_b"]), names_of_two(*analysis.views), strict=True))
    )
    home = absolute(store)
    a, b = (
        of.id if absolute(of.directory.root) == home else f"{of.directory.root}::{of.id}"
        for of in (view.run for view in analysis.views)
    )
    words = ["lpp-analyze", "items", store, b, "--task", row["task"], "--against", a]
    again = shlex.join([*words, *as_words(analysis.settings), "-o", "flips.html"])
    named = f"{store!r}, {row['task']!r}, {a!r}, {b!r}, {as_python(analysis.settings)}"
    call = (
        "import polars as pl\nfrom lpp.analyze import ItemsSettings, flipped_items\n\n"
        f"found = flipped_items({named}).tables\n"
    )
    result = verdict(features, within=row["n_within"] > 0)
    tables: tuple[Table, ...] = ()
    if ranked := row["why_no_ranking"] is None:
        # meanings of the database's columns are about right items
        made = feature_tables(features, result, call, declared={})
        tables = tuple(replace(t, brief=t.brief and t.name != SITES) for t in made)
    notes = [*without_auroc(features)] if ranked else [row["why_no_ranking"]]
    found = f"{result.sentence(BECOME_WRONG)} {result.best_feature('does so best')}".rstrip()
    lost, right = row["right_to_wrong"], row["right_in_both"] + row["right_to_wrong"]
    return Page(
        title="Items that flip between two runs",
        about=say(f"{code(row['task'])}: from {run(row['run_a'])} to {run(row['run_b'])}"),
        opening=_opening(row),
        findings=(
            *([say(found)] if ranked else []),
            *((f"{note.rstrip('.')}.",) for note in row["notes"]),
        ),
        sections=(
            Section(
                "features",
                f"What separates the {lost:,} of {right:,} right items of A that are wrong in B",
                Q_READING if ranked else "",
                charts=tuple(
                    Chart(
                        "flips-depth",
                        "features",
                        table,
                        "AUROC by depth",
                        "Each feature of the rows, at each site, with its 95 % interval, within "
                        "groups where there are any. Grey: where 95 % of draws with shuffled "
                        "labels lie. Dashed: the baselines, and the best feature of the "
                        "predictions of A.",
                        drawing("item_depth_chart", features, runs=runs),
                        opens=True,
                    )
                    for table in tables
                    if table.name == SITES
                ),
                tables=tables,
                notes=tuple((note,) for note in notes),
                short="Features",
                more=_reading(row) if ranked else "",
            ),
            Section(
                "changed",
                "Items whose answer changed, the largest lead first",
                tables=_changed(changed, "changed", f"{call}found['item_changes']"),
                short="Items",
                more=_LEAD,
            ),
            Section("again", "The command", notes=((Code(again),),), brief=False),
        ),
        runs=runs,
        next=(f"lpp-analyze diff {shlex.quote(store)} {shlex.join([a, b])}",),
        data={
            "item_changes": changed,
            "item_flips": analysis.tables["item_flips"],
            "item_features": features,
        },
        store=store,
        origin=origin_of([view.run for view in analysis.views]),
    )


def flips_section(tables: Mapping[str, pl.DataFrame] | str, place: int = 0) -> Section:
    """The section on one task of a page about two runs: what flips, or why it is not known.

    tables: `item_flips` and `item_changes`. place: number of the task on the page, from 0.
    """
    name = f"items-{place}"
    if isinstance(tables, str):
        return Section(name, "Items", notes=((tables,),))
    (row,) = tables["item_flips"].to_dicts()
    call = f"flips(STORE, {row['task']!r}, {row['run_a']!r}, {row['run_b']!r})"
    changed = _changed(tables["item_changes"], f"{name}-changed", f"changed_items({call})")
    return Section(
        name,
        f"Items of {row['task']}",
        tables=changed,
        notes=(say(_conclusion(row)), *((line,) for line in _counts(row))),
        more=_LEAD if changed else "",
    )


def flips_frames(tasks: Sequence[Mapping[str, pl.DataFrame] | str]) -> dict[str, pl.DataFrame]:
    """Tables for programs: `item_flips`, a row for each task, and `item_changes`. Empty without
    tasks.

    tasks: tables of each as of `flips_section`, or why there are none.
    """
    known = [task for task in tasks if not isinstance(task, str)]
    rows = [
        pl.DataFrame([{"why_none": t}], ITEM_FLIPS) if isinstance(t, str) else t["item_flips"]
        for t in tasks
    ]
    which = ("task", "run_a", "run_b")
    changed = [
        t["item_changes"].select(*(pl.lit(t["item_flips"][n][0]).alias(n) for n in which), pl.all())
        for t in known
    ]
    frames = {"item_flips": rows, "item_changes": changed}
    return {name: pl.concat(parts) for name, parts in frames.items() if parts}


def _conclusion(row: Row) -> str:
    lost, gained, low, high = (
        row[name]
        for name in ("right_to_wrong", "wrong_to_right", "difference_ci_low", "difference_ci_high")
    )
    value = f"{signed(row['difference'])} {ends(low, high, signed)}"
    change = "The change of accuracy is not significant"
    if low > 0 or high < 0:
        change = f"The accuracy {'falls' if row['difference'] < 0 else 'rises'} significantly"
    return (
        f"From {run(row['run_a'])} to {run(row['run_b'])}, {lost + gained:,} of {row['n_items']:,} "
        f"items of {code(row['task'])} flip: {lost:,} to wrong and {gained:,} to right. {change}: "
        f"{value}."
    )


def _counts(row: Row) -> Iterator[str]:
    """Numbers of items, and how the items of the runs differ."""
    moved = row["other_wrong_answer"]
    other = f", of these {moved:,} with another wrong answer" if moved else ""
    test = "p by cluster (Durkalski et al. 2003)" if row["cluster"] else "McNemar's exact p"
    yield (
        f"Right in both {row['right_in_both']:,}, in A alone {row['right_to_wrong']:,}, in B alone "
        f"{row['wrong_to_right']:,}, in neither {row['wrong_in_both']:,}{other}. {test}: "
        f"{probability(row['mcnemar_p'])}."
    )
    if row["source_a"] != row["source_b"]:
        yield f"Sources: {row['source_a']} (A), {row['source_b']} (B)."
    yield from row["left_out"]


def _opening(row: Row) -> Opening:
    low, high = row["difference_ci_low"], row["difference_ci_high"]
    return Opening(
        say(_conclusion(row)),
        f"{row['n_items']:,} items, {independence(row)}, paired",
        (
            ("flipped", "items"),
            ("accuracy", "of A"),
            ("accuracy", "of B"),
            ("difference", "B - A"),
        ),
        (
            (
                Figure(f"{row['right_to_wrong'] + row['wrong_to_right']:,}"),
                Figure(hundredths(row["accuracy_a"])),
                Figure(hundredths(row["accuracy_b"])),
                Figure(signed(row["difference"]), ends(low, high, signed)),
            ),
        ),
        tuple((line,) for line in _counts(row)),
    )


def _reading(row: Row) -> str:
    within = (
        f" Within groups: only pairs of one group, {row['n_within']:,} items; partial and q use "
        "these pairs."
        if row["n_within"]
        else ""
    )
    return (
        "AUROC: the probability that an item that becomes wrong has a larger value than an item "
        "that stays right; 0.50 is chance; below 0.50 the items that stay right have the larger "
        "values. Partial: AUROC of the feature's ranks after a regression on "
        f"{' and '.join(row['covariates'])} in A.{within} Role drift: from A to B, before the "
        "answer."
    )


def _changed(changed: pl.DataFrame, name: str, call: str) -> tuple[Table, ...]:
    """Items whose answer changed; none: no table. call: Python that gives them."""
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
            code=call,
            short=pl.concat(rows.filter(change=c).head(IN_SHORT) for c in _CHANGES.values()),
        ),
    )
