"""Tables of the report that show tokens as text: what surprised each model."""

import shlex
from typing import Final

import polars as pl

from lpp.analyze.pages.tokens import shown_words
from lpp.analyze.report.answers import Answer, ask_views
from lpp.analyze.report.queries import SURPRISES, Query
from lpp.store import open_store
from lpp.store.errors import FormatError

MOST_TOKENS: Final = 5_000_000
"""Most tokens of a store whose statistics are read: a second or two."""


def surprises(url: str, *, of_some: bool = False) -> Answer:
    """What surprised each model; the tokens as text.

    of_some: whether the page is of some of many runs; then the tokens of all are not read for it.
    """
    if of_some:
        why = "A report of some runs does not read the tokens of all"
        command = f"lpp-sql {shlex.quote(url)} --run surprises"
        return Answer(SURPRISES, pl.DataFrame(), f"{why}: {command}")
    return in_words(url, SURPRISES, "surprises")


def in_words(url: str, query: Query, saved: str) -> Answer:
    """The answer to a query over the views, with visible spaces and control characters.

    If the store is in a bucket, or has more than `MOST_TOKENS` tokens, nothing is read: the answer
    names the command that runs the saved query `saved`.
    """
    store = open_store(url)
    try:
        n_tokens = sum(run.plan.prompts.tokens for run in store.runs.values())
    except FormatError as error:
        return Answer(query, pl.DataFrame(), str(error).rstrip("."))
    if n_tokens > MOST_TOKENS or not store.objects.is_local:
        command = f"lpp-sql {shlex.quote(url)} --run {saved}"
        why = f"A report does not read {n_tokens:,} tokens here: {command}"
        return Answer(query, pl.DataFrame(), why)
    answer = ask_views(url, query)
    return Answer(query, shown_words(answer.frame), answer.fault)
