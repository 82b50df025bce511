"""One comparison of two models as a page; no database is read or written."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.gate import Verdict
from lpp.analyze.drift.summaries import by_position
from lpp.analyze.drift.tables import drift_tables, stores
from lpp.analyze.drift.worst import order_of, worst_tokens
from lpp.analyze.pages.html import as_html
from lpp.analyze.pages.page import Opening, Page, Section
from lpp.analyze.pages.words import Code, Run, Sentence
from lpp.analyze.report.answers import Answer, Answers, ask_tables, without_columns
from lpp.analyze.report.drift import drift_charts, drift_findings, positions_of
from lpp.analyze.report.drift_queries import (
    DRIFT,
    DRIFT_HISTOGRAM,
    DRIFT_POSITIONS,
    DRIFT_QUERIES,
    DRIFT_SITES,
    DRIFT_TOKENS,
)
from lpp.analyze.report.provenance import origin_of
from lpp.analyze.report.queries import Query
from lpp.analyze.report.surprises import shown_words
from lpp.analyze.tables.flags import MEANING
from lpp.analyze.text.drift import what_was_compared
from lpp.store.format.run_names import run_names

GATE: Final = Query(
    "gate",
    "Conditions under which the comparison fails",
    "drift_predictions",
    ("condition",),
    "",
    "lpp-analyze diff",
    language="Python",
    first=("condition", "outcome", "value", "decisive", "site", "why"),
)

_CODE: Final = {
    DRIFT.name: 'drift_tables(found)["drift_predictions"]',
    DRIFT_SITES.name: 'drift_tables(found)["drift_sites"]',
    DRIFT_HISTOGRAM.name: 'drift_tables(found)["drift_tokens"]["kl"]  # four bins to a decade',
    DRIFT_POSITIONS.name: "by_position(found.tokens, found.pair.groups)",
    DRIFT_TOKENS.name: "worst_tokens(found)",
    GATE.name: "verdict(parse_condition(CONDITION), found.predictions, found.sites, "
    "lost=found.pair.lost)",
}
"""Python that gives the rows of each table; `found` is a `Drift`."""

_OF_THE_PAGE: Final = ("run_a", "run_b", "n_prompts", "first_position")
"""Columns that are constant in a comparison: the page shows them once."""

_OUTLINE: Final = (
    (
        "predictions",
        "What changed in the predictions",
        "KL and the other divergences are over the full vocabulary; flips are tokens whose most "
        "likely next token differs; next_logprob is how far ln p of the token that followed moved; "
        "log_perplexity and entropy are those of the second run less those of the first. Intervals "
        "are 95 % jackknife intervals over prompts, which leave the same prompts out of both runs.",
        (DRIFT, DRIFT_POSITIONS, DRIFT_HISTOGRAM),
    ),
    (
        "sites",
        "What changed inside",
        "Relative distance: of the rows of one token, the length of their difference over that of "
        "the first run's row; overlap: of the ten leading eigenvectors; ranks: those of the second "
        "run less those of the first, in dimensions. Intervals are paired.",
        (DRIFT_SITES,),
    ),
    (
        "tokens",
        "Where the predictions changed most",
        "The text so far, the token that followed, and what each model took for the likeliest. A "
        "token is its id where no store has the vocabulary.",
        (DRIFT_TOKENS,),
    ),
)
_CHARTS: Final = {"drift-depth": "sites"}
"""Sections of the charts that do not belong to the predictions."""


def drift_page(found: Drift, verdicts: Sequence[Verdict] = ()) -> str:
    """The page of one comparison: HTML that needs no other file and no network.

    Raises MachineError(NO_PACKAGE) without the extra `report`, FormatError for altered bytes.
    """
    a, b = (view.run for view in (found.pair.a, found.pair.b))
    answers = _answers(found, verdicts)
    styles = RunStyles(run_names({run.id: run.plan for run in (a, b)}))
    charts = list(drift_charts(answers, styles))
    sections = [
        Section(
            "compared",
            "What was compared, and how",
            "Two runs over the same token ids, token by token. The numbers say how much changed, "
            "and where; whether that matters is for an evaluation to say.",
            (),
            (),
            tuple(_compared(found)),
        )
    ]
    if verdicts:
        lead = (
            "The end towards the threshold decides; the column decisive has it. The intervals of "
            "all conditions hold together at 98 % (Bonferroni); level is that of each."
        )
        sections.append(
            Section("gate", "Gate", lead, (), (_shown(answers[GATE.name], found).table(),))
        )
    for name, title, lead, queries in _OUTLINE:
        drawn = tuple(c for c in charts if _CHARTS.get(c.name, "predictions") == name)
        shown = (answers[query.name] for query in queries)
        tables = tuple(_shown(one, found).table() for one in shown if one.frame.height)
        sections.append(Section(name, title, lead, drawn, tables))
    sentences = tuple(drift_findings(answers))
    return as_html(
        Page(
            title="Drift between two models",
            about=("From ", Run(a.id), " to ", Run(b.id)),
            store=str(stores(found.pair)[0]),
            opening=Opening(sentences[0] if sentences else ()),
            findings=sentences[1:],
            sections=tuple(sections),
            meanings=MEANING,
            origin=origin_of([a] if found.pair.of_one_run else [a, b]),
            runs=styles,
        )
    )


def _answers(found: Drift, verdicts: Sequence[Verdict]) -> Answers:
    """Answers to the report's queries, from the tables of this comparison alone."""
    answers = ask_tables(drift_tables(found), DRIFT_QUERIES)
    pair = found.pair.a.run.id, found.pair.b.run.id
    answers[DRIFT_POSITIONS.name] = positions_of(
        {pair: lambda: by_position(found.tokens, found.pair.groups)}
    )
    answers[DRIFT_TOKENS.name] = Answer(
        replace(DRIFT_TOKENS, key=("prompt_id", "position")), _worst(found)
    )
    answers[GATE.name] = Answer(GATE, _gate(verdicts))
    return answers


def _worst(found: Drift) -> pl.DataFrame:
    rows = [
        {
            "prompt_id": one.prompt_id,
            "position": one.position,
            "text_so_far": one.context,
            "came": one.came,
            "expected_a": one.a.token,
            "probability_a": one.a.probability,
            "expected_b": one.b.token,
            "probability_b": one.b.probability,
            "kl" if order_of(found) == "kl" else "change": one.change,
        }
        for one in worst_tokens(found)
    ]
    return shown_words(pl.DataFrame(rows, infer_schema_length=None))


def _gate(verdicts: Sequence[Verdict]) -> pl.DataFrame:
    rows = [
        {
            "condition": one.condition.text,
            "outcome": one.outcome,
            "value": one.value,
            "decisive": one.decisive,
            "level": one.level,
            "site": one.site,
            "why": one.why or None,
        }
        for one in verdicts
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _shown(one: Answer, found: Drift) -> Answer:
    """`one` without its constant columns, with the Python that gives its rows."""
    same = _OF_THE_PAGE if found.seed is not None else (*_OF_THE_PAGE, "n_drawn")
    return without_columns(one, same, f"{_call(found)}\n{_CODE[one.query.name]}")


def _call(found: Drift) -> str:
    """The Python that repeats this comparison."""
    options = "".join(f", {name}={value}" for name, value in _options(found).items())
    store, a, b = _named(found)
    return (
        "from lpp.analyze import diff\n"
        "from lpp.analyze.drift.gate import verdict\n"
        "from lpp.analyze.drift.summaries import by_position\n"
        "from lpp.analyze.drift.tables import drift_tables\n"
        "from lpp.analyze.drift.worst import worst_tokens\n"
        "from lpp.analyze.quantities.conditions import parse_condition\n\n"
        f"found = diff({store!r}, {a!r}, {b!r}{options})"
    )


def _named(found: Drift) -> tuple[str, str, str]:
    """The store and both runs as `diff` takes them."""
    a, b = (view.run for view in (found.pair.a, found.pair.b))
    homes = stores(found.pair)
    return str(homes[0]), a.id, b.id if len(homes) == 1 else f"{homes[1]}::{b.id}"


def _options(found: Drift) -> dict[str, int]:
    options = {"prompts": found.pair.n_prompts}
    if found.first_position:
        options["first_position"] = found.first_position
    if found.seed is not None:
        options |= {"tokens": len(found.tokens), "seed": found.seed}
    return options


def _compared(found: Drift) -> Iterator[Sentence]:
    for line in what_was_compared(found):
        yield (line,)
    named = {"first_position": "skip-first"}
    options = " ".join(f"--{named.get(k, k)} {v}" for k, v in _options(found).items())
    yield ("Again: ", Code(f"lpp-analyze diff {shlex.join(_named(found))} {options}"))
