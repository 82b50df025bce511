"""What a store lacks, in one sentence, and the next command that computes some of it."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lpp.analyze.pages.words import Code, Sentence
from lpp.analyze.report.answers import Answer, Answers
from lpp.analyze.report.queries import Query

_ORDER: Final = (
    *("lpp-capture", "lpp-analyze profile", "lpp-analyze layers", "lpp-analyze diff"),
    *("lpp-analyze benchmarks", "lpp-analyze correlate"),
)
"""Commands in order: a later one may read what an earlier one computed."""

_FILLED: Final = ("runs", "plans", "published", "flags")
"""Queries that have rows whichever commands have run."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """The command that computes something that a store lacks."""

    title: str
    """The numbers that the store lacks."""
    command: str
    """STORE stands for the store, other words in capitals for what only the reader has."""


def not_computed(
    url: str, missing: Iterable[Answer], answers: Answers, *, others: Iterable[Remedy] = ()
) -> Sentence:
    """What the `missing` answers and `others` lack; empty where nothing is missing.

    A command that has run is not suggested again: it would add nothing.
    """
    unread, remedies = list[str](), list[Remedy]()
    for answer in missing:
        title = answer.query.title.partition(":")[0]
        if answer.fault is not None:
            unread.append(f"{title}: {answer.fault.rstrip('.')}.")
        elif not has_run(answer.query, answers):
            remedies.append(Remedy(title, answer.query.command))
    remedies += others
    if not remedies:
        return tuple(filter(None, [" ".join(unread)]))
    titles = dict.fromkeys(remedy.title for remedy in remedies)
    command = min((remedy.command for remedy in remedies), key=_rank)
    command = command.replace(" STORE", f" {shlex.quote(url)}", 1)
    end = " ".join((".", *unread))
    return (f"Not computed: {', '.join(titles)}. Next: ", Code(command), end)


def has_run(query: Query, answers: Answers) -> bool:
    """Whether the command that fills `query` has filled another table."""
    if query.language == "Python":
        return False  # the analysis cache may have been removed since
    if query.command.startswith("lpp-capture"):
        return answers["runs"].frame.height > 0
    return any(
        a.frame.height and a.query.command == query.command and a.query.name not in _FILLED
        for a in answers.values()
    )


def _rank(command: str) -> int:
    """The place of a command among those that are run one after another."""
    return next((k for k, name in enumerate(_ORDER) if command.startswith(name)), len(_ORDER))
