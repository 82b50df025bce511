"""The section on items of evaluations: queries on their tables, and what is said of the rows."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.pages import items_page_tables as page
from lpp.analyze.evaluations.pages.items_page import (
    OF_ANALYSIS,
    READING,
    RIGHT,
    item_charts,
    item_findings,
)
from lpp.analyze.evaluations.pages.verdict import Q_READING
from lpp.analyze.evaluations.tables import FEWEST_ITEMS, FEWEST_OF_A_KIND
from lpp.analyze.pages.page import Section
from lpp.analyze.pages.words import code, run, say
from lpp.analyze.report.answers import Answer, Answers, tables_of
from lpp.analyze.report.queries import Query, whole
from lpp.analyze.report.surprises import in_words
from lpp.sql import saved_query
from lpp.store import open_store
from lpp.store.errors import FormatError
from lpp.store.scores.items import read_items

SECTION: Final = "items"

_EVAL: Final = "lpp-capture eval --model MODEL --tasks TASK --store STORE"
_KEY: Final = ", ".join(OF_ANALYSIS)
_RENAMED: Final = ", ".join(f"{old} AS {new}" for old, new in page.RENAMED.items())
_FEATURES: Final = f"SELECT * RENAME ({_RENAMED})\nFROM item_features"


_SQL: Final = {
    page.ANALYSES: f"SELECT * FROM item_analyses ORDER BY {_KEY}",
    page.OF_ITEMS: f"{_FEATURES}\nWHERE site = '' AND auroc IS NOT NULL\n"
    f"ORDER BY {_KEY}, list_position({[*page.ROLES]}, role),\n"
    "  abs(coalesce(within_auroc, auroc) - 0.5) DESC NULLS LAST, feature",
    page.OF_SITES: f"{_FEATURES}\nWHERE site <> '' AND auroc IS NOT NULL\n"
    f"ORDER BY {_KEY}, feature, depth, site",
    page.CONTROLS: f"{_FEATURES}\nORDER BY {_KEY}, site <> '', feature, depth, site",
    page.RELIABILITY: f"SELECT * FROM item_reliability ORDER BY {_KEY}, bin",
    page.RISK: f"SELECT * FROM item_risk ORDER BY {_KEY}, n_answered",
}
ITEM_QUERIES: Final = (
    *(
        Query(**asdict(shape), sql=sql, command="lpp-analyze items STORE --task TASK")
        for shape, sql in _SQL.items()
    ),
    whole("item_features"),
)
"""Queries that need only the tables. Mistakes need the views; evaluated tasks are in the store."""

ITEM_MISTAKES: Final = Query(
    **asdict(page.MISTAKES),
    sql="SELECT item, item_group, question, chosen AS chosen_answer, confidence,\n"
    "  gold AS gold_answer, gold_share, task, run\n"
    f"FROM (\n{saved_query('confident_mistakes').statement}\n)",
    command=_EVAL,
)
ITEM_EVALUATED: Final = Query(
    "item-evaluated",
    "Evaluated tasks of the store",
    "items",
    ("source", "task", "run", "filter"),
    "from lpp.store.scores.items import read_items\n\nread_items(STORE)",
    _EVAL,
    language="Python",
)


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
    names = (page.ANALYSES.name, ITEM_EVALUATED.name)
    return any(answers[name].frame.height for name in names)


def section(url: str, answers: Answers, runs: RunStyles) -> Section:
    """The section of the store at `url`; needs `has_items`."""
    frames = {query.table: answers[query.name].frame for query in ITEM_QUERIES}
    tables = {
        table.name: table for table in tables_of(answers, (*_SQL, page.MISTAKES), page.shaped)
    }
    return Section(
        SECTION,
        f"What separates {RIGHT}",
        f"{Q_READING} {READING}",
        tuple(item_charts(frames, tables, runs, SECTION)),
        tuple(tables.values()),
        (*item_findings(frames), *map(say, not_analysed(answers, url))),
        short="Items",
    )


def not_analysed(answers: Answers, store: str) -> Iterator[str]:
    """A sentence for each evaluated task without an analysis, with the command to run."""
    evaluated = answers[ITEM_EVALUATED.name].frame
    if evaluated.is_empty():
        return
    analyses, key = answers[page.ANALYSES.name].frame, ITEM_EVALUATED.key
    if analyses.height:
        evaluated = evaluated.join(analyses.select(key), on=key, how="anti", maintain_order="left")
    for row in evaluated.iter_rows(named=True):
        which = f"{code(row['task'])} of {run(row['run'])}"
        if row["n_items"] < FEWEST_ITEMS or min(row["n_right"], row["n_wrong"]) < FEWEST_OF_A_KIND:
            counts = f"{row['n_right']:,} right and {row['n_wrong']:,} wrong items"
            yield f"{which} has {counts}: too few to rank features."
            continue
        words = ["lpp-analyze", "items", store, row["run"], "--task", row["task"]]
        words += ["--source", row["source"]]
        if row["filter"] != "none":
            words += ["--filter", row["filter"]]
        yield f"{which} was evaluated and not analysed: {code(shlex.join(words))}"
