"""The items of one evaluated task as a page, from their analysis alone, without a database."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.analysis import ItemAnalysis
from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.mistakes import confident_mistakes
from lpp.analyze.evaluations.tables import MEANING, item_flags, item_tables
from lpp.analyze.pages.html import as_html
from lpp.analyze.pages.markdown import said
from lpp.analyze.pages.page import Opening, Page, Section
from lpp.analyze.pages.words import Code, Run, Sentence
from lpp.analyze.report.answers import Answer, Answers, ask_tables, without_columns
from lpp.analyze.report.item_queries import (
    ITEM_ANALYSES,
    ITEM_CONTROLS,
    ITEM_FEATURES,
    ITEM_MISTAKES,
    ITEM_QUERIES,
    ITEM_RELIABILITY,
    ITEM_RISK,
    ITEM_SITES,
    OF_ANALYSIS,
)
from lpp.analyze.report.items import item_charts, item_findings
from lpp.analyze.report.provenance import origin_of
from lpp.analyze.report.queries import Query
from lpp.analyze.report.surprises import shown_words
from lpp.analyze.text.items import as_markdown, what_was_asked
from lpp.store.format.run_names import run_names

_CODE: Final = {
    ITEM_ANALYSES.name: 'item_tables(found)["item_analyses"]',
    ITEM_FEATURES.name: 'item_tables(found)["item_features"].filter(site="")',
    ITEM_SITES.name: 'item_tables(found)["item_features"].filter(pl.col("site") != "")',
    ITEM_CONTROLS.name: 'item_tables(found)["item_features"]',
    ITEM_RELIABILITY.name: 'item_tables(found)["item_reliability"]',
    ITEM_RISK.name: 'item_tables(found)["item_risk"]',
    ITEM_MISTAKES.name: "confident_mistakes(some)",
}
"""Python that gives the rows of each table, from the items and their analysis."""

_OUTLINE: Final = (
    (
        "features",
        "What tells right answers from wrong ones",
        "AUROC: the probability that a right item has the larger value of a feature than a wrong "
        "one; 0.5 says nothing, 0.3 tells as much as 0.7. Within: among items of one group alone. "
        "q: Benjamini and Hochberg over all features but those of the gold answer, which use the "
        "label. An AUROC does not say that the model uses the feature, or that it holds for "
        "another task.",
        ("items-depth",),
        (ITEM_FEATURES, ITEM_SITES, ITEM_CONTROLS),
    ),
    (
        "confidence",
        "Whether confidence can be trusted",
        "The confidence of an item is the share of the chosen answer among the answers, or ln p of "
        "the only answer, for each of its tokens. A calibrated model is right as often as its "
        "shares say.",
        ("items-reliability", "items-risk"),
        (ITEM_ANALYSES, ITEM_RELIABILITY, ITEM_RISK),
    ),
    (
        "mistakes",
        "The most confident mistakes",
        "The wrong items of the largest confidence, with the last 60 tokens of the question, the "
        "chosen and the right answer. A token is its id where the store has no vocabulary.",
        (),
        (ITEM_MISTAKES,),
    ),
)


def items_page(store: str, some: EvaluatedItems, found: ItemAnalysis) -> str:
    """The page of one analysis: HTML that needs no other file and no network.

    store: its path as it was given. found: the analysis of `some`. Raises MachineError(NO_PACKAGE)
    without the extra `report`, FormatError for altered bytes.
    """
    answers = ask_tables(item_tables(found), ITEM_QUERIES)
    answers[ITEM_MISTAKES.name] = Answer(ITEM_MISTAKES, _mistakes(some))
    run = some.view.run
    styles = RunStyles(run_names({run.id: run.plan}))
    charts = {chart.name: chart for chart in item_charts(answers, styles)}
    sections = [
        Section(
            name,
            title,
            lead,
            tuple(replace(charts[chart], section=name) for chart in drawn if chart in charts),
            tuple(one.table() for one in _shown(answers, queries, store, some, found)),
        )
        for name, title, lead, drawn, queries in _OUTLINE
    ]
    lead = "Counts, and the command that makes this page."
    asked = Section(
        "asked", "What was asked, and how", lead, (), (), tuple(_asked(store, some, found))
    )
    sentences = tuple(_findings(answers, found))
    return as_html(
        Page(
            title="Right and wrong answers",
            about=(Code(found.task), " answered by ", Run(found.run)),
            store=store,
            opening=Opening(sentences[0] if sentences else ()),
            findings=sentences[1:],
            sections=(*sections, asked),
            origin=origin_of([run]),
            runs=styles,
        )
    )


def items_markdown(some: EvaluatedItems, found: ItemAnalysis) -> str:
    """The page as Markdown, for a pull request. Raises FormatError for altered bytes."""
    answers = ask_tables(item_tables(found), ITEM_QUERIES)
    sentences = [said(sentence, RunStyles({})) for sentence in _findings(answers, found)]
    return as_markdown(found, sentences, confident_mistakes(some))


def _findings(answers: Answers, found: ItemAnalysis) -> Iterator[Sentence]:
    """What was found, then what to keep in mind."""
    yield from item_findings(answers)
    yield from ((MEANING[flag],) for flag in item_flags(found))


def _shown(
    answers: Answers,
    queries: Sequence[Query],
    store: str,
    some: EvaluatedItems,
    found: ItemAnalysis,
) -> Iterator[Answer]:
    """The answers that have rows, without the columns that are constant on the page."""
    for name, answer in answers.items():
        if answer.query in queries and answer.frame.height:
            named = ("task",) if name == ITEM_ANALYSES.name else ()
            same = [column for column in (*OF_ANALYSIS, "flags") if column not in named]
            yield without_columns(answer, same, f"{_call(store, some, found)}\n{_CODE[name]}")


def _mistakes(some: EvaluatedItems) -> pl.DataFrame:
    rows = [
        {
            "item": one.item,
            "item_group": one.item_group,
            "question": one.question,
            "chosen_answer": one.chosen,
            "confidence": one.confidence,
            "gold_answer": one.gold,
            "gold_share": one.gold_share,
        }
        for one in confident_mistakes(some)
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return shown_words(frame[[c.name for c in frame if c.null_count() < len(c)]])


def _sites(some: EvaluatedItems, found: ItemAnalysis) -> list[str]:
    """The sites that were chosen; empty: all of the run."""
    sites = found.features["site"].drop_nulls().unique(maintain_order=True).to_list()
    return [] if set(sites) == set(some.view.run.sites) else sites


def _call(store: str, some: EvaluatedItems, found: ItemAnalysis) -> str:
    """The Python that repeats this analysis."""
    options = f"run={found.run!r}, source={found.source!r}, filter={found.filter!r}"
    options += f", cluster={found.cluster!r}" if found.cluster else ""
    sites = _sites(some, found)
    chosen = f"sites={sites!r}, " if sites else ""
    return (
        "import polars as pl\n"
        "from lpp.analyze.evaluations.analysis import analysis\n"
        "from lpp.analyze.evaluations.evaluated import evaluated_items\n"
        "from lpp.analyze.evaluations.mistakes import confident_mistakes\n"
        "from lpp.analyze.evaluations.tables import item_tables\n\n"
        f"some = evaluated_items({store!r}, {found.task!r}, {options})\n"
        f"found = analysis(some, {chosen}skip_first={found.skip_first}, seed={found.seed})"
    )


def _asked(store: str, some: EvaluatedItems, found: ItemAnalysis) -> Iterator[Sentence]:
    for line in what_was_asked(found):
        yield (f"{line}.",)
    words = ["lpp-analyze", "items", store, "--task", found.task, "--run", found.run]
    words += ["--source", found.source, "--filter", found.filter]
    words += ["--skip-first", str(found.skip_first), "--seed", str(found.seed)]
    words += ["--cluster", found.cluster] if found.cluster else []
    if sites := _sites(some, found):
        words += ["--sites", ",".join(sites)]
    yield ("Again: ", Code(f"{shlex.join(words)} -o items.html"))
