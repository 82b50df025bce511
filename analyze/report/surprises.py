"""What surprised each model: the one table of the report that reads token statistics."""

import shlex
from typing import Final

import polars as pl

from lpp.analyze.report.answers import Answer, ask_views
from lpp.analyze.report.queries import SURPRISES
from lpp.analyze.text.text import token
from lpp.store import open_store
from lpp.store.errors import FormatError

MOST_TOKENS: Final = 5_000_000
"""Tokens of a store whose statistics are read: a second or two."""


def surprises(url: str) -> Answer:
    """The tokens in words, with spaces and controls that can be seen.

    Of a store with more than `MOST_TOKENS` tokens, or in a bucket, nothing is read: the answer
    names the command.
    """
    store = open_store(url)
    try:
        n_tokens = sum(run.plan.prompts.tokens for run in store.runs.values())
    except FormatError as error:
        return Answer(SURPRISES, pl.DataFrame(), str(error).rstrip("."))
    if n_tokens > MOST_TOKENS or not store.objects.is_local:
        command = f"lpp-sql {shlex.quote(url)} --run surprises"
        why = f"A report does not read {n_tokens:,} tokens here: {command}"
        return Answer(SURPRISES, pl.DataFrame(), why)
    found = ask_views(url, SURPRISES)
    words = [name for name in ("token", "expected") if name in found.frame.columns]
    shown = [pl.col(name).map_elements(token, return_dtype=pl.String) for name in words]
    return Answer(SURPRISES, found.frame.with_columns(shown), found.fault)
