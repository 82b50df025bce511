"""Saved queries: the questions that people ask, as SQL files in `sql/queries/`.

A file begins with comments: its title, how to read the answer (`Read:`), and what is lacking when
there is none (`Empty:`), with STORE for the store. The rest is one SELECT, which `lpp-sql --run`
and any connection of `lpp.sql.connect` can run.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from lpp.store.errors import ErrorKind, InputError

_COMMENT: Final = "--"
_PARTS: Final = ("Read", "Empty")


@dataclass(frozen=True, slots=True)
class Query:
    """One saved query."""

    name: str
    """What `lpp-sql STORE --run` takes: the name of its file."""
    title: str
    """The question, in a line."""
    reading: str
    """How to read the answer."""
    when_empty: str
    """What is lacking when there are no rows, and the next command; STORE stands for the store."""
    text: str
    """The whole file, comments and all: one SELECT that ends in a semicolon."""

    @property
    def statement(self) -> str:
        """`text` without the comments at its head and without the semicolon: part of another."""
        lines = itertools.dropwhile(lambda line: line.startswith(_COMMENT), self.text.splitlines())
        return "\n".join(lines).removesuffix(";")


@cache
def saved_queries() -> Mapping[str, Query]:
    """Every saved query by its name, in alphabetical order.

    >>> saved_queries()["differences"].title
    'Is the difference between two models larger than its error?'
    """
    from importlib import resources  # not at the top: what starts `lpp-sql` stays small

    files = resources.files("lpp.sql.queries").iterdir()
    queries = (
        parse(file.name.removesuffix(".sql"), file.read_text("utf-8"))
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".sql")
    )
    return MappingProxyType({query.name: query for query in queries})


def saved_query(name: str) -> Query:
    """The saved query called `name`; InputError(NOT_FOUND) with the nearest names."""
    queries = saved_queries()
    if name not in queries:
        import difflib

        near = difflib.get_close_matches(name.casefold(), queries, n=3, cutoff=0.6)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(
            f"no saved query is called {name!r}.{meant} All of them: lpp-sql --list",
            kind=ErrorKind.NOT_FOUND,
        )
    return queries[name]


def parse(name: str, text: str) -> Query:
    """The query that a file of this text holds. A line that goes on is indented.

    >>> parse("n", "-- Why?\\n-- Read: one row\\n--   each.\\n-- Empty: no.\\nSELECT 1;\\n").reading
    'one row each.'
    """
    title, *lines = text.splitlines()
    parts: dict[str, list[str]] = {}
    for line in lines:
        comment = line.removeprefix(_COMMENT)
        start, colon, rest = comment.strip().partition(": ")
        if comment != line and colon and start in _PARTS:
            parts[start] = [rest]
        elif comment.startswith("   ") and comment != line and parts:
            next(reversed(parts.values())).append(comment.strip())
        else:
            break
    reading, when_empty = (" ".join(parts[part]) for part in _PARTS)
    return Query(name, title.removeprefix(_COMMENT).strip(), reading, when_empty, text)
