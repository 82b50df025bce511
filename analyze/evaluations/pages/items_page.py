"""What separates the right answers of a task from the wrong ones, as a page.

Everything is made of rows: the tables of one analysis, or those of every analysis of a database,
which the report reads.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.pages.items_page_tables import (
    ANALYSES,
    CONTROLS,
    MISTAKES,
    OF_ITEMS,
    OF_SITES,
    RELIABILITY,
    RISK,
    feature_tables,
    shaped,
    without_auroc,
)
from lpp.analyze.evaluations.pages.verdict import Q_READING, Row, Verdict, named, verdict
from lpp.analyze.evaluations.tables import ANALYSIS_KEY, MEANING, ItemAnalysis
from lpp.analyze.pages.analyses import analyses, chart_of_analyses
from lpp.analyze.pages.page import Chart, Figure, Frames, Opening, Page, Section
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Table
from lpp.analyze.pages.words import (
    Sentence,
    clause,
    code,
    ends,
    flag,
    hundredths,
    ref,
    run,
    say,
    with_interval,
)
from lpp.store.settings.command_line import as_words
from lpp.store.settings.setting import as_python

OF_ANALYSIS: Final = ("task", "run", "source", "filter", "skip_first", "seed")
"""The key of an analysis, in the order in which it is shown."""

RIGHT: Final = "right answers from wrong ones"

READING: Final = (
    "AUROC: the probability that a right item has a larger value of the feature than a wrong item; "
    "0.50 is chance, and 0.30 separates as well as 0.70. Within groups: only items of one group "
    "are compared. Partial: AUROC of the feature's ranks after a regression on the answer's length "
    "and ln p. Features of the gold answer use the label, so they have no q. An AUROC does not say "
    "that the model uses the feature, or that it holds for another task."
)
"""How to read a table of features, after `Q_READING`."""

TOLD: Final = 3
"""Analyses that are described in full; of others, only how many items were right."""

# of one analysis, or of every analysis of a database


def item_findings(frames: Frames) -> Iterator[Sentence]:
    """Sentences on each analysed task: how many items are right, what separates right from wrong,
    and the calibration.

    Of several settings, only the one that leaves out the fewest positions is described.
    """
    analyses = frames["item_analyses"]
    if analyses.width:
        key = OF_ANALYSIS[:4]
        analyses = analyses.sort(OF_ANALYSIS).unique(key, keep="first", maintain_order=True)
    for k, row in enumerate(analyses.iter_rows(named=True)):
        of_row = (pl.col(name) == row[name] for name in OF_ANALYSIS)
        features = frames["item_features"].filter(*of_row)
        result = verdict(features, within=row["n_within"] > 0)
        yield say(_conclusion(row, result))
        if k < TOLD:
            yield say(result.sentence(RIGHT))
            if row["ece"] is not None:
                yield say(_calibration(row))


def _conclusion(row: Row, verdict: Verdict) -> str:
    """How many items are right, and the best feature. row: of `item_analyses`."""
    n = row["n_right"] + row["n_wrong"]
    value = with_interval(row["accuracy"], row["accuracy_ci_low"], row["accuracy_ci_high"])
    best = verdict.best_feature("separates right from wrong answers best")
    best = best or "No feature separates right from wrong answers better than chance."
    counted = ref(f"{row['n_right']:,} of {n:,} items", ANALYSES.name)
    right = f"{run(row['run'])}: {counted} of {code(row['task'])} are right"
    return f"{right} (accuracy {value}). {best}"


def _calibration(row: Row) -> str:
    beyond = "more" if row["ece"] > row["ece_by_chance"] else "no more"
    value = with_interval(row["ece"], row["ece_ci_low"], row["ece_ci_high"])
    return (
        f"The share of the chosen answer is off by {ref(value, ANALYSES.name)} on average "
        f"(expected calibration error): {beyond} than the {hundredths(row['ece_by_chance'])} that "
        "a calibrated model reaches by chance with as many items."
    )


def item_charts(
    frames: Frames, tables: Mapping[str, Table], runs: RunStyles, section: str = ""
) -> Iterator[Chart]:
    """Charts of depth, reliability and risk, with a panel for each analysis that has data.

    tables: those behind the charts, by name. section: that has them all; by default depth is in
    `features`, the others are in `confidence`.
    """
    for name, table, needed, title, draw, text in (
        (
            *("items-depth", OF_SITES, "depth", "AUROC by depth", "item_depth_chart"),
            "Each feature of the rows, at each site, with its 95 % interval, within groups where "
            "there are any. Grey: where 95 % of draws with shuffled labels lie. Dashed: the "
            "baselines, and the best feature of the predictions.",
        ),
        (
            *("items-reliability", RELIABILITY, "bin", "Reliability", "reliability_chart"),
            "How often the model is right, by the mean share of the chosen answer among the "
            "answers, in bins of equally many items. On the diagonal the model is right as often "
            "as the share says; below the diagonal it is too sure.",
        ),
        (
            *("items-risk", RISK, "risk", "Risk against coverage", "risk_chart"),
            "The share of wrong answers when the model answers only the items it is most confident "
            "of. Dashed: all items answered, which is also what a random order gives.",
        ),
    ):
        parts = analyses(frames[table.table], OF_ANALYSIS, needed)
        if table.name in tables and parts:
            home = "features" if table is OF_SITES else "confidence"
            yield chart_of_analyses(
                draw,
                parts,
                runs,
                name=name,
                section=section or home,
                table=tables[table.name],
                title=title,
                text=text,
            )


# the page of one analysis

_SECTIONS: Final = (
    ("features", f"What separates {RIGHT}", (OF_ITEMS, OF_SITES, CONTROLS), READING),
    (
        "confidence",
        "Whether confidence can be trusted",
        (ANALYSES, RELIABILITY, RISK),
        "The confidence of an item is the probability of the chosen answer among the answers or, "
        "with one answer, its ln p per token. A calibrated model is right as often as this share "
        "says.",
    ),
    (
        "mistakes",
        "The most confident mistakes",
        (MISTAKES,),
        "The wrong items with the largest confidence: the last 60 tokens of the question, the "
        "chosen and the right answer. Tokens are ids if the store has no vocabulary.",
    ),
)
"""Name, title, tables, and how to read these."""


def items_page(store: str, analysis: ItemAnalysis) -> Page:
    """The page of the analysis of one run; no database is read or written.

    store: its path as it was given. Raises FormatError for altered bytes.
    """
    (view,), frames, settings = analysis.views, analysis.tables, analysis.settings
    runs = RunStyles({view.run.id: view.run.name})
    features, row = analysis.features_frame().drop(ANALYSIS_KEY), analysis.row
    others = {name: rows for name, rows in frames.items() if name != "item_features"}
    result = verdict(features, within=row["n_within"] > 0)
    first, best, *further = item_findings(frames)
    named = f"{store!r}, {row['task']!r}, {row['run']!r}, {as_python(settings)}"
    call = (
        "import polars as pl\nfrom lpp.analyze import ItemsSettings, items\n\n"
        f"found = items({named}).tables\n"
    )
    tables = {table.name: table for table in _tables(frames, features, result, call)}
    charts = list(item_charts(frames, tables, runs))
    charts[:1] = [replace(chart, opens=True) for chart in charts[:1]]
    notes = {"features": without_auroc(features), "confidence": _confidence(row, frames)}
    words = ["lpp-analyze", "items", store, row["run"], "--task", row["task"]]
    again = shlex.join([*words, *as_words(settings)])
    return Page(
        title="Right and wrong answers",
        about=say(f"{code(row['task'])} answered by {run(row['run'])}"),
        opening=_opening(first, row, result),
        findings=(best, *((note,) for note in row["notes"])),
        further=tuple(further),
        sections=(
            *(
                Section(
                    name,
                    title,
                    Q_READING if name == "features" else "",
                    charts=tuple(chart for chart in charts if chart.section == name),
                    tables=tuple(tables[s.name] for s in shapes if s.name in tables),
                    notes=tuple(map(say, notes.get(name, ()))),
                    more=more,
                    brief=name == "features",
                )
                for name, title, shapes, more in _SECTIONS
            ),
            Section(
                "asked",
                "What was asked, and how",
                notes=(
                    *map(say, _how_asked(row)),
                    say(f"Again: {code(f'{again} -o items.html')}"),
                ),
                brief=False,
            ),
        ),
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(store)} --run confident_mistakes",),
        data={"item_features": features.with_columns(pl.col("site").replace("", None)), **others},
        store=store,
        origin=origin_of([view.run]),
    )


def _opening(sentence: Sentence, row: Row, result: Verdict) -> Opening:
    """Accuracy, the best feature beside the best baseline, and the calibration error."""

    def with_ends(name: str) -> tuple[float, float | None, float | None]:
        return row[name], row[f"{name}_ci_low"], row[f"{name}_ci_high"]

    numbers = {("accuracy", "share"): with_ends("accuracy")}
    for feature, which in ((result.best, "best"), (result.baseline, "baseline")):
        if feature is not None:
            numbers[named(feature), f"AUROC, {which}"] = result.number(feature)
    if row["ece"] is not None:
        numbers["calibration", "error"] = with_ends("ece")
    within = f" in {row['n_groups']:,} groups" if result.within else ""
    figures = (
        Figure(hundredths(x), ends(low, high) or "no interval") for x, low, high in numbers.values()
    )
    return Opening(
        sentence,
        f"{row['n_right'] + row['n_wrong']:,} items{within}, {independence(row)}",
        tuple(numbers),
        (tuple(figures),),
        tuple(say(f"{flag(name)}: {clause(MEANING[name])}.") for name in row["flags"]),
    )


def _tables(frames: Frames, features: pl.DataFrame, result: Verdict, call: str) -> Iterator[Table]:
    """Tables that have rows, without the columns that are constant on the page."""
    yield from feature_tables(features, result, call)
    for shape in (ANALYSES, RELIABILITY, RISK):
        constant = [name for name in OF_ANALYSIS if name != "task" or shape is not ANALYSES]
        frame = frames[shape.table].drop(constant, strict=False)
        if frame.height:
            rows = f"{call}found[{shape.table!r}]"
            yield shaped(shape, frame, code=rows, first=(*shape.first, "flags"))
    wrong = frames["item_mistakes"]
    wrong = wrong.select(column for column in wrong if column.null_count() < len(column))
    yield shaped(MISTAKES, wrong, code=f"{call}found['item_mistakes']")


def _confidence(row: Row, frames: Frames) -> Iterator[str]:
    """The numbers of no table: means over items, and the area under risk against coverage."""
    bins, risk = frames["item_reliability"], frames["item_risk"]
    if row["ece"] is None:
        yield "No calibration: items have one answer each, and its probability is no confidence."
    else:
        means = pl.col("confidence", "accuracy").dot(pl.col("n")) / pl.col("n").sum()
        share, right = bins.select(means).row(0)
        yield (
            f"The mean of chosen_share is {hundredths(share)}, and {hundredths(right)} of the "
            "items are right. A calibrated model would be off by "
            f"{hundredths(row['ece_calibrated'])} on average."
        )
    yield (
        f"Area under risk against coverage, ordered by {row['risk_by']}: "
        f"{hundredths(row['risk_area'])}; the best order has {hundredths(row['risk_best'])}, a "
        f"random one {hundredths(risk['risk'][-1])}."
    )


def _how_asked(row: Row) -> Iterator[str]:
    """Counts, and what is independent."""
    groups = f"; {row['n_groups']:,} groups" if row["n_groups"] else ""
    counts = f"{row['n_right']:,} right, {row['n_wrong']:,} wrong{groups}"
    n = row["n_right"] + row["n_wrong"]
    yield f"{n:,} items of {code(row['task'])}, {counts}. Source: {row['source']}."
    if row["n_groups"]:
        count = f"{row['n_within']:,}" if row["n_within"] else "too few to compare any"
        yield (
            f"Within groups: {count} items are in groups of at least two right and two wrong ones."
        )


def independence(row: Row) -> str:
    """Whether items are independent, or clusters of items."""
    clusters = f"{row['n_clusters']:,} clusters by {row['cluster']}"
    return clusters if row["cluster"] else "taken as independent"
