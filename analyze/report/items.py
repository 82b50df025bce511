"""The section on items of evaluations: what tells right answers from wrong ones."""

import shlex
from collections.abc import Iterator
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.pages import items_page_tables as page_tables
from lpp.analyze.evaluations.pages.items_page import READING, item_charts, item_findings
from lpp.analyze.evaluations.pages.verdict import Q_READING
from lpp.analyze.evaluations.tables import FEWEST_ITEMS, FEWEST_OF_A_KIND
from lpp.analyze.pages.page import Section
from lpp.analyze.pages.words import Code, Part, Run, Sentence
from lpp.analyze.report.answers import Answer, Answers, tables_of
from lpp.analyze.report.item_queries import (
    ITEM_ANALYSES,
    ITEM_EVALUATED,
    ITEM_MISTAKES,
    ITEM_QUERIES,
)
from lpp.analyze.report.queries import whole
from lpp.analyze.report.surprises import in_words
from lpp.store import open_store
from lpp.store.errors import FormatError
from lpp.store.scores.items import read_items

SECTION: Final = "items"
SHAPES: Final = (
    *(page_tables.ANALYSES, page_tables.OF_ITEMS, page_tables.OF_SITES, page_tables.CONTROLS),
    *(page_tables.RELIABILITY, page_tables.RISK, page_tables.MISTAKES),
)
"""Tables that the section shows."""


def evaluated_answer(url: str) -> Answer:
    """Evaluated tasks of the store: how many of their items are right or wrong."""
    try:
        items = pl.DataFrame(pl.from_arrow(read_items(open_store(url).path)))
    except FormatError as error:
        return Answer(ITEM_EVALUATED, pl.DataFrame(), str(error).rstrip("."))
    right = pl.col("correct")
    judged = items.drop_nulls(("run", "correct")).group_by(ITEM_EVALUATED.key)
    counts = judged.agg(n_items=pl.len(), n_right=right.sum(), n_wrong=(~right).sum())
    return Answer(ITEM_EVALUATED, counts.sort(ITEM_EVALUATED.key))


def mistake_answer(url: str, answers: Answers) -> Answer:
    """The most confident mistakes, as text; reads nothing if no items were evaluated."""
    if answers[ITEM_EVALUATED.name].frame.is_empty():
        return Answer(ITEM_MISTAKES, pl.DataFrame())
    return in_words(url, ITEM_MISTAKES, "confident_mistakes")


def has_items(answers: Answers) -> bool:
    """Whether some task was analysed, or evaluated."""
    names = (ITEM_ANALYSES.name, ITEM_EVALUATED.name)
    return any(answers[name].frame.height for name in names)


def section(url: str, answers: Answers, runs: RunStyles) -> Section:
    """The section of the store at `url`; needs `has_items`."""
    frames = {query.table: answers[query.name].frame for query in ITEM_QUERIES}
    frames["item_features"] = answers[whole("item_features").name].frame
    tables = {table.name: table for table in tables_of(answers, SHAPES, page_tables.shaped)}
    return Section(
        SECTION,
        "What tells right answers from wrong ones",
        f"{Q_READING} {READING}",
        tuple(item_charts(frames, tables, runs, SECTION)),
        tuple(tables.values()),
        (*item_findings(frames), *not_analysed(answers, url)),
        short="Items",
    )


def not_analysed(answers: Answers, store: str) -> Iterator[Sentence]:
    """A sentence for each evaluated task without an analysis, with the command to run."""
    evaluated = answers[ITEM_EVALUATED.name].frame
    if evaluated.is_empty():
        return
    analyses = answers[ITEM_ANALYSES.name].frame
    key = list(ITEM_EVALUATED.key)
    if analyses.height:
        evaluated = evaluated.join(analyses.select(key), on=key, how="anti", maintain_order="left")
    for row in evaluated.iter_rows(named=True):
        parts: list[Part] = [Code(row["task"]), " of ", Run(row["run"])]
        if row["n_items"] < FEWEST_ITEMS or min(row["n_right"], row["n_wrong"]) < FEWEST_OF_A_KIND:
            counts = f"{row['n_right']:,} right and {row['n_wrong']:,} wrong items"
            yield (*parts, f" has {counts}: too few to rank features.")
            continue
        words = ["lpp-analyze", "items", store, "--task", row["task"], "--run", row["run"]]
        words += ["--source", row["source"]]
        if row["filter"] != "none":
            words += ["--filter", row["filter"]]
        yield (*parts, " was evaluated and not analysed: ", Code(shlex.join(words)))
