"""What tells the right answers of a task from the wrong ones, as a page.

Sentences and charts are made of frames: the tables of one analysis (`item_tables`), or of every
analysis of a database, which the report reads.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.analysis import ItemAnalysis
from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.mistakes import confident_mistakes
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
from lpp.analyze.evaluations.tables import MEANING, item_flags, item_tables
from lpp.analyze.pages.analyses import analyses, chart_of_analyses
from lpp.analyze.pages.page import Chart, Figure, Opening, Page, Section
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Table
from lpp.analyze.pages.words import (
    Code,
    Flag,
    Ref,
    Run,
    Sentence,
    clause,
    ends,
    hundredths,
    with_interval,
)
from lpp.store.format.run_names import run_names
from lpp.store.settings.command_line import as_words
from lpp.store.settings.setting import as_python

Frames = Mapping[str, pl.DataFrame]
"""Rows of `item_analyses`, `item_features`, `item_reliability` and `item_risk`, by name."""

OF_ANALYSIS: Final = ("task", "run", "source", "filter", "skip_first", "seed")
"""The key of an analysis, in the order in which it is shown."""

RIGHT: Final = "right answers from wrong ones"

READING: Final = (
    "AUROC: the probability that a right item has the larger value of a feature than a wrong one; "
    "0.50 says nothing, 0.30 tells as much as 0.70. Within groups: among items of one group alone. "
    "Partial: of what the answer's length and ln p leave of the feature's ranks. Features of the "
    "gold answer use the label, and have no q. An AUROC does not say that the model uses the "
    "feature, or that it holds for another task."
)
"""How to read a table of features, after `Q_READING`."""

TOLD: Final = 3
"""Analyses that are described in full; of others, only how many items were right."""

# of one analysis, or of every analysis of a database


def item_findings(frames: Frames) -> Iterator[Sentence]:
    """Sentences on each analysed task: how many items are right, what tells right from wrong, and
    the calibration.

    Of several settings, only the one that leaves out the fewest positions is described.
    """
    analyses = frames["item_analyses"]
    if analyses.width:
        key = OF_ANALYSIS[:4]
        analyses = analyses.sort(OF_ANALYSIS).unique(key, keep="first", maintain_order=True)
    for k, row in enumerate(analyses.iter_rows(named=True)):
        result = verdict(of_analysis(frames["item_features"], row), within=row["n_within"] > 0)
        yield conclusion(row, result)
        if k < TOLD:
            yield result.sentence(RIGHT)
            if row["ece"] is not None:
                yield _calibration(row)


def of_analysis(frame: pl.DataFrame, row: Row) -> pl.DataFrame:
    """The rows of one analysis. row: any row that has its key."""
    return frame.filter(pl.all_horizontal(pl.col(name) == row[name] for name in OF_ANALYSIS))


def conclusion(row: Row, verdict: Verdict) -> Sentence:
    """How many items are right, and what tells them best. row: of `item_analyses`."""
    n = row["n_right"] + row["n_wrong"]
    value = with_interval(row["accuracy"], row["accuracy_ci_low"], row["accuracy_ci_high"])
    if verdict.best is None:
        best = "and no feature tells them from the wrong ones beyond chance."
    else:
        best = f"and {named(verdict.best)} tells them from the wrong ones best"
        best += f"{verdict.beside_baseline()}."
    return (
        Run(row["run"]),
        " answers ",
        Ref(f"{row['n_right']:,} of {n:,} items", ANALYSES.name),
        " of ",
        Code(row["task"]),
        f" correctly (accuracy {value}), {best}",
    )


def _calibration(row: Row) -> Sentence:
    beyond = "more" if row["ece"] > row["ece_by_chance"] else "not surely more"
    value = with_interval(row["ece"], row["ece_ci_low"], row["ece_ci_high"])
    return (
        "The chosen answer's share is off by ",
        Ref(value, ANALYSES.name),
        f" on average (expected calibration error), {beyond} than chance gives a calibrated model "
        f"on as many items (up to {hundredths(row['ece_by_chance'])}).",
    )


_CHARTS: Final = (
    (
        "items-depth",
        "features",
        "AUROC by depth",
        "Each feature of the rows, at each site, with its 95 % interval, within groups where there "
        "are any. Grey: where 95 % of draws with shuffled labels lie. Dashed: the baselines, and "
        "the best feature of the predictions.",
        OF_SITES.name,
        ("item_features", "depth", "item_depth_chart"),
    ),
    (
        "items-reliability",
        "confidence",
        "Reliability",
        "How often the model is right, by the mean share of the chosen answer among the answers, "
        "in bins of equally many items. On the diagonal it is as often right as the share says; "
        "below it, it is too sure.",
        RELIABILITY.name,
        ("item_reliability", "bin", "reliability_chart"),
    ),
    (
        "items-risk",
        "confidence",
        "Risk against coverage",
        "The share of wrong answers when the model answers only the items it is most confident of. "
        "Dashed: all items answered; an order by chance stays there.",
        RISK.name,
        ("item_risk", "risk", "risk_chart"),
    ),
)


def item_charts(frames: Frames, tables: Mapping[str, Table], runs: RunStyles) -> Iterator[Chart]:
    """Charts of depth, reliability and risk, with a panel for each analysis that has data.

    tables: those behind the charts, by name.
    """
    for name, section, title, text, table, (source, needed, chart) in _CHARTS:
        parts = analyses(frames[source], OF_ANALYSIS, needed)
        if table in tables and parts:
            yield chart_of_analyses(
                chart,
                parts,
                runs,
                name=name,
                section=section,
                table=tables[table],
                title=title,
                text=text,
            )


# the page of one analysis


_CODE: Final = {
    ANALYSES.name: 'item_tables(found)["item_analyses"]',
    OF_ITEMS.name: 'item_tables(found)["item_features"].filter(site="").drop_nulls("auroc")',
    OF_SITES.name: 'item_tables(found)["item_features"].filter(pl.col("site") != "")'
    '.drop_nulls("auroc")',
    CONTROLS.name: 'item_tables(found)["item_features"]',
    RELIABILITY.name: 'item_tables(found)["item_reliability"]',
    RISK.name: 'item_tables(found)["item_risk"]',
    MISTAKES.name: "confident_mistakes(some)",
}
"""Python that gives the rows of each table, from the items and their analysis."""

_LEADS: Final = (
    READING,
    "The confidence of an item is the share of the chosen answer among the answers, or ln p of "
    "the only answer, for each of its tokens. A calibrated model is right as often as its shares "
    "say.",
    "The wrong items of the largest confidence, with the last 60 tokens of the question, the "
    "chosen and the right answer. A token is its id where the store has no vocabulary.",
)


def items_page(store: str, items: EvaluatedItems, answer: ItemAnalysis) -> Page:
    """The page of one analysis; no database is read or written.

    store: its path as it was given. answer: the analysis of `items`. Raises FormatError for altered
    bytes.
    """
    run = items.view.run
    runs = RunStyles(run_names({run.id: run.plan}))
    frames = item_tables(answer)
    others = {name: rows for name, rows in frames.items() if name != "item_features"}
    (row,) = frames["item_analyses"].to_dicts()
    result = verdict(answer.features, within=answer.n_within > 0)
    sentences = list(item_findings(frames))
    tables = {table.name: table for table in _tables(store, items, answer, frames, result)}
    charts = list(item_charts(frames, tables, runs))
    charts[:1] = [replace(chart, opens=True) for chart in charts[:1]]
    notes = _notes(answer)

    def section(name: str, title: str, more: str, *names: str) -> Section:
        return Section(
            name,
            title,
            Q_READING if name == "features" else "",
            charts=tuple(chart for chart in charts if chart.section == name),
            tables=tuple(tables[table] for table in names if table in tables),
            notes=notes.get(name, ()),
            more=more,
            brief=name == "features",
        )

    features, confidence, mistakes = _LEADS  # how to read the tables of each section
    return Page(
        title="Right and wrong answers",
        about=(Code(answer.task), " answered by ", Run(answer.run)),
        opening=_opening(sentences[0], row, result, answer),
        findings=(
            sentences[1],
            *((f"{n:,} items are left out: {why}.",) for why, n in answer.left_out.items()),
        ),
        further=tuple(sentences[2:]),
        sections=(
            section(
                *("features", f"What tells {RIGHT}", features),
                *(OF_ITEMS.name, OF_SITES.name, CONTROLS.name),
            ),
            section(
                *("confidence", "Whether confidence can be trusted", confidence),
                *(ANALYSES.name, RELIABILITY.name, RISK.name),
            ),
            section("mistakes", "The most confident mistakes", mistakes, MISTAKES.name),
            Section(
                "asked",
                "What was asked, and how",
                notes=tuple(_how_asked(store, items, answer)),
                brief=False,
            ),
        ),
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(store)} --run confident_mistakes",),
        data={"item_features": answer.features, **others},
        store=store,
        origin=origin_of([run]),
    )


def _opening(sentence: Sentence, row: Row, result: Verdict, answer: ItemAnalysis) -> Opening:
    """Accuracy, the best feature beside the best baseline, and the calibration error."""
    numbers = {("accuracy", "share"): _with_ends(row, "accuracy")}
    for feature, which in ((result.best, "best"), (result.baseline, "baseline")):
        if feature is not None:
            numbers[named(feature), f"AUROC, {which}"] = result.number(feature)
    if row["ece"] is not None:
        numbers["calibration", "error"] = _with_ends(row, "ece")
    within = f" in {answer.n_groups:,} groups" if result.within else ""
    return Opening(
        sentence,
        f"{answer.n_right + answer.n_wrong:,} items{within}, "
        f"{independence(answer.cluster, answer.n_clusters)}",
        tuple(numbers),
        (
            tuple(
                Figure(hundredths(x), ends(low, high) or "no interval")
                for x, low, high in numbers.values()
            ),
        ),
        tuple((Flag(flag), f": {clause(MEANING[flag])}.") for flag in item_flags(answer)),
    )


def _with_ends(row: Row, name: str) -> tuple[float, float | None, float | None]:
    """A number of a row and the ends of its interval."""
    return row[name], row[f"{name}_ci_low"], row[f"{name}_ci_high"]


def _tables(
    store: str, items: EvaluatedItems, answer: ItemAnalysis, frames: Frames, result: Verdict
) -> Iterator[Table]:
    """Tables that have rows, without the columns that are constant on the page."""
    call = _call(store, answer)

    def code(name: str) -> str:
        return f"{call}\n{_CODE[name]}"

    yield from feature_tables(answer.features, result, code)
    for shape in (ANALYSES, RELIABILITY, RISK):
        constant = [name for name in OF_ANALYSIS if name != "task" or shape is not ANALYSES]
        frame = frames[shape.table].drop(constant, strict=False)
        if frame.height:
            yield shaped(shape, frame, code=code(shape.name), first=(*shape.first, "flags"))
    rows = [asdict(mistake) for mistake in confident_mistakes(items)]
    wrong = pl.DataFrame(rows, infer_schema_length=None).rename(
        {"chosen": "chosen_answer", "gold": "gold_answer"}
    )
    wrong = wrong.select(column for column in wrong if column.null_count() < len(column))
    yield shaped(MISTAKES, wrong, code=code(MISTAKES.name))


def _notes(answer: ItemAnalysis) -> Mapping[str, tuple[Sentence, ...]]:
    """Sentences of sections: what has no number and why, and the numbers of no table."""
    risk, calibrated = answer.risk, answer.calibration
    if calibrated is None:
        share = "No calibration: items have one answer, whose probability is no confidence."
    else:
        share = (
            f"The mean of chosen_share is {hundredths(calibrated.confidence)}; "
            f"{hundredths(calibrated.accuracy)} of the items are right. A calibrated model would "
            f"be off by {hundredths(calibrated.calibrated[0])} on average."
        )
    area = (
        f"Area under risk against coverage, by {answer.confidence}: {hundredths(risk.area)}; best "
        f"{hundredths(risk.best)}, by chance {hundredths(risk.random)}."
    )
    return {"features": tuple(without_auroc(answer.features)), "confidence": ((share,), (area,))}


def _call(store: str, answer: ItemAnalysis) -> str:
    """The Python that repeats this analysis."""
    return (
        "import polars as pl\n"
        "from lpp.analyze import ItemsSettings\n"
        "from lpp.analyze.evaluations.analysis import analysis\n"
        "from lpp.analyze.evaluations.evaluated import evaluated_items\n"
        "from lpp.analyze.evaluations.mistakes import confident_mistakes\n"
        "from lpp.analyze.evaluations.tables import item_tables\n\n"
        f"settings = {as_python(answer.settings)}\n"
        f"some = evaluated_items({store!r}, {answer.task!r}, {answer.run!r}, settings)\n"
        "found = analysis(some, settings)"
    )


def _how_asked(store: str, items: EvaluatedItems, answer: ItemAnalysis) -> Iterator[Sentence]:
    """Counts, what is independent, and the command that makes the page again."""
    groups = f"; {answer.n_groups:,} groups" if answer.n_groups else ""
    yield (
        f"{answer.n_right + answer.n_wrong:,} items of ",
        Code(answer.task),
        f", {answer.n_right:,} right, {answer.n_wrong:,} wrong{groups}. Source: {answer.source}.",
    )
    if answer.n_groups:
        count = f"{answer.n_within:,}" if answer.n_within else "too few to compare any"
        yield (
            f"Within groups: {count} items are in groups of at least two right and two wrong ones.",
        )
    words = ["lpp-analyze", "items", store, "--task", answer.task, "--run", answer.run]
    words += as_words(answer.settings)
    yield ("Again: ", Code(f"{shlex.join(words)} -o items.html"))


def independence(cluster: str | None, n_clusters: int) -> str:
    """Whether items are independent, or clusters of items."""
    return "independent" if cluster is None else f"{n_clusters:,} clusters by {cluster}"
