"""What a store lacks: what a command can compute, what needs files, and what stays empty."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lpp.analyze.pages.page import Advice, NotComputed
from lpp.analyze.report.answers import Answer, Answers
from lpp.analyze.report.queries import Query
from lpp.store.terminal.escaping import escape

_ORDER: Final = (
    *("lpp-capture", "lpp-analyze profile", "lpp-analyze layers"),
    *("lpp-analyze benchmarks", "lpp-analyze correlate"),
)
"""Commands in order: a later one may read what an earlier one computed."""

_PLACEHOLDER: Final = re.compile(r"(?!STORE$)[A-Z_]+")
"""A word that the reader replaces. A run id has digits too."""

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
    url: str,
    missing: Iterable[Answer],
    answers: Answers,
    *,
    others: Iterable[Remedy] = (),
    options: Sequence[str] = (),
) -> NotComputed | None:
    """The box for the `missing` answers and `others`; None where nothing is missing.

    A command that has run is not suggested again: it would add nothing. options: words after STORE
    of the command that writes the report again.
    """
    empty: list[tuple[str, str]] = []
    remedies: list[Remedy] = []
    for answer in missing:
        title = answer.query.title.partition(":")[0]
        if answer.fault is not None:
            empty.append((title, answer.fault))
        elif has_run(answer.query, answers):
            command = " ".join(answer.query.command.split()[:2])
            empty.append((title, f"{command} has run and found nothing for it"))
        else:
            remedies.append(Remedy(title, answer.query.command))
    remedies += others
    if not (empty or remedies):
        return None
    ready, with_files = _parted(remedies)
    return NotComputed(
        _advice(ready, url, options), _advice(with_files, url, options), tuple(empty)
    )


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


def _parted(remedies: Sequence[Remedy]) -> tuple[list[Remedy], list[Remedy]]:
    """`remedies`, split before the first one that needs files of scores."""
    with_files = [r for r in remedies if _needs(r.command)]
    if any("benchmarks add" in r.command for r in with_files):
        with_files += [r for r in remedies if r.command.startswith("lpp-analyze correlate")]
    return [r for r in remedies if r not in with_files], with_files


def _needs(command: str) -> bool:
    """Whether `command` has a word in capitals, other than STORE, for the reader to replace."""
    return any(_PLACEHOLDER.fullmatch(word) for word in shlex.split(command))


def _advice(remedies: Sequence[Remedy], url: str, options: Sequence[str]) -> Advice | None:
    """`remedies` as one command line that ends with the report; None without any."""
    if not remedies:
        return None
    again = " ".join(("lpp-analyze report STORE", *map(shlex.quote, options)))
    commands = [*_sorted(remedy.command for remedy in remedies), again]
    return Advice(
        tuple(dict.fromkeys(remedy.title for remedy in remedies)),
        " && \\\n  ".join(escape(_of_store(command, url)) for command in commands),
    )


def _of_store(command: str, url: str) -> str:
    """`command` with the store in place of STORE."""
    return command.replace(" STORE", f" {shlex.quote(url)}", 1)


def _sorted(commands: Iterable[str]) -> list[str]:
    """Different commands, in the order in which they are run."""
    ranks: Mapping[str, int] = {name: k for k, name in enumerate(_ORDER)}

    def rank(command: str) -> int:
        matches = (ranks[name] for name in ranks if command.startswith(name))
        return next(matches, len(ranks))

    return sorted(dict.fromkeys(commands), key=rank)
