"""The section on what changed between two models: rows from the database of a store."""

import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.frames import frames_of_tokens
from lpp.analyze.drift.pages.drift_page_parts import PAIRS_DRAWN, charts
from lpp.analyze.drift.pages.drift_page_tables import (
    Pair,
    of_pairs,
    pairs_by_kl,
)
from lpp.analyze.pages.page import Chart, Frames, Origin
from lpp.analyze.report.answers import Answer, Answers
from lpp.analyze.report.drift_queries import (
    DRIFT,
    DRIFT_HISTOGRAM,
    DRIFT_POSITIONS,
    DRIFT_SITES,
    DRIFT_TOKENS,
)
from lpp.analyze.report.not_computed import Remedy
from lpp.analyze.report.surprises import in_words
from lpp.analyze.runs.groups import GROUPS, Groups, clusters_of
from lpp.store import open_store
from lpp.store.errors import LppError

SECTION: Final = "drift"
TITLE: Final = "What changed between two models"
LEAD: Final = (
    "Pairs of runs over the same token ids: what changes from the first run to the second. Of the "
    "predictions, over the full vocabulary: KL and other divergences, flips of the most likely "
    "token, ln p of the token that followed; of each site the distance of the rows, CKA and ranks. "
    "Intervals are 95 % jackknife intervals over prompts, which leave the same prompts out of both "
    "runs. The numbers say how much changed, and where; whether that matters is for an evaluation "
    "to say."
)
TABLES: Final = tuple(
    query.name for query in (DRIFT, DRIFT_TOKENS, DRIFT_SITES, DRIFT_POSITIONS, DRIFT_HISTOGRAM)
)
"""Tables that the section shows."""

_OF_TOKENS: Final = (DRIFT_POSITIONS, DRIFT_HISTOGRAM)


def frames(answers: Answers) -> Frames:
    """Rows of every comparison, by table."""
    return {name: answers[name].frame for name in TABLES if name in answers}


def token_answers(url: str, answers: Answers) -> Mapping[str, Answer]:
    """Answers from the tokens of the pairs that are drawn, and the tokens that changed most as
    text; reads nothing if no runs were compared.
    """
    from lpp.sql.database.connect import reading

    pairs = pairs_by_kl(frames(answers))[:PAIRS_DRAWN]
    queries = (*_OF_TOKENS, DRIFT_TOKENS)
    if not pairs:
        return {query.name: Answer(query, pl.DataFrame()) for query in queries}
    in_text = {DRIFT_TOKENS.name: in_words(url, DRIFT_TOKENS, "drift_tokens")}
    try:
        with reading(url) as connection:

            def tokens(pair: Pair) -> tuple[pl.DataFrame, Groups]:
                where = "WHERE run_a = ? AND run_b = ?"
                rows = connection.sql(
                    f"FROM drift_tokens {where} ORDER BY prompt_id, position", params=pair
                ).pl()
                cluster, *_ = connection.sql(
                    f"SELECT max(cluster) FROM drift_predictions {where}", params=pair
                ).fetchall()[0]
                if cluster is None:
                    return rows, GROUPS
                return rows, clusters_of(open_store(url).run(pair[0]), cluster)

            computed = frames_of_tokens({pair: partial(tokens, pair) for pair in pairs})
    except LppError as error:
        why = str(error).rstrip(".")
        return {query.name: Answer(query, pl.DataFrame(), why) for query in _OF_TOKENS} | in_text
    return {query.name: Answer(query, computed[query.name]) for query in _OF_TOKENS} | in_text


def drift_charts(answers: Answers, runs: RunStyles) -> Iterator[Chart]:
    """Charts of depth, positions and histogram; none if no runs were compared."""
    tables = {name: answers[name].table() for name in TABLES}
    return charts(frames(answers), tables, runs, SECTION)


def partly_compared(answers: Answers, source: Origin) -> Iterator[Remedy]:
    """The comparisons of pairs that have sites in common without a row of drift."""
    sites_by_run = {run.run: {*run.sites} for run in source.runs}
    others: dict[str, list[str]] = {}
    for a, b in pairs_by_kl(frames(answers)):
        rows = of_pairs(answers[DRIFT_SITES.name].frame, [(a, b)])
        if sites_by_run.get(a, set()) & sites_by_run.get(b, set()) - {*rows["site"]}:
            others.setdefault(a, []).append(b)
    for a, runs in others.items():
        against = ["--against"] if len(runs) > 1 else []
        command = f"lpp-analyze diff STORE {shlex.join([*against, a, *runs])}"
        yield Remedy("What changed at the sites that were not compared", command)
