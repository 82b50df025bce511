"""What a store lacks: one list, and one command that computes it."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lpp.analyze.report.answers import Answer, Answers
from lpp.analyze.report.queries import Query
from lpp.store.commands.escaping import escape

_ORDER: Final = (
    *("lpp-capture", "lpp-analyze profile", "lpp-analyze layers", "lpp-analyze sensitivity"),
    *("lpp-analyze benchmarks", "lpp-analyze correlate"),
)
"""Commands in order: a later one may read what an earlier one computed."""

_FILLED: Final = ("runs", "plans", "published", "flags")
"""Queries that have rows whichever commands have run."""


@dataclass(frozen=True, slots=True)
class NotComputed:
    """The page's box of what was not computed."""

    items: tuple[tuple[str, str], ...]
    """Title of each empty table, and why it is empty if no command fills it."""
    command: str
    """Shell command that computes what is missing; empty if nothing can be computed."""
    with_files: str
    """Shell command for the rest; the reader replaces its words in capitals."""


def not_computed(url: str, missing: Iterable[Answer], answers: Answers) -> NotComputed | None:
    """The box for the `missing` answers; None where nothing is missing.

    A command that has run is not suggested again: it would add nothing.
    """
    items: list[tuple[str, str]] = []
    commands: list[str] = []
    for one in missing:
        title = one.query.title.partition(":")[0]
        if one.fault is not None:
            items.append((title, one.fault))
        elif has_run(one.query, answers):
            command = " ".join(one.query.command.split()[:2])
            items.append((title, f"{command} has run and found nothing for it"))
        else:
            items.append((title, ""))
            commands.append(one.query.command)
    if not items:
        return None
    ready, with_files = _parted(_sorted(commands))
    return NotComputed(tuple(items), _joined(ready, url), _joined(with_files, url))


def has_run(query: Query, answers: Answers) -> bool:
    """Whether the command that fills `query` has filled another table."""
    if query.language == "Python":
        return False  # the analysis cache may have been removed since
    if query.command.startswith("lpp-capture"):
        return answers["runs"].frame.height > 0
    return any(
        one.frame.height and one.query.command == query.command and one.query.name not in _FILLED
        for one in answers.values()
    )


def _sorted(commands: Sequence[str]) -> list[str]:
    places: Mapping[str, int] = {name: place for place, name in enumerate(_ORDER)}

    def place(command: str) -> int:
        found = (places[name] for name in places if command.startswith(name))
        return next(found, len(places))

    return sorted(dict.fromkeys(commands), key=place)


def _parted(commands: Sequence[str]) -> tuple[list[str], list[str]]:
    """`commands`, split before the first one that needs files of scores."""
    ready = [c for c in commands if not _needs(c)]
    with_files = [c for c in commands if _needs(c)]
    if any("benchmarks add" in command for command in with_files):
        after = [c for c in ready if c.startswith("lpp-analyze correlate")]
        ready = [c for c in ready if c not in after]
        with_files += after
    return ready, with_files


def _needs(command: str) -> bool:
    """Whether `command` has a word in capitals, other than STORE, for the reader to replace."""
    return any(word.isupper() and word != "STORE" for word in command.split())


def _joined(commands: Sequence[str], url: str) -> str:
    """`commands` and then the report, as one command line; empty without commands."""
    every = (*commands, "lpp-analyze report STORE") if commands else ()
    return " && \\\n  ".join(escape(c.replace("STORE", shlex.quote(url))) for c in every)
