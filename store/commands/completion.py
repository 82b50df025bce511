"""Shell completion: names in the store that the command line gives.

click runs it in a separate process, so an answer takes as long as opening a store. If the line has
a mistake, such as a store that does not exist, nothing is offered: the command itself reports it.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from lpp.store.errors import LppError

if TYPE_CHECKING:
    from lpp.store import Store

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_runs(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Runs of the store that the command names."""
    return _of_store(context, incomplete, lambda store: store.runs)


def complete_sites(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Sites that any run of that store keeps, in depth order."""
    return _of_store(
        context, incomplete, lambda store: (s for run in store.runs.values() for s in run.sites)
    )


def complete_names(names: Callable[[], Iterable[str]]) -> Complete:
    """A completion of `names`, which are computed when the user presses TAB."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _fitting(names(), incomplete)

    return complete


def _of_store(
    context: click.Context, incomplete: str, names: "Callable[[Store], Iterable[str]]"
) -> list[CompletionItem]:
    from lpp.store import open_store

    # click parses no argument of a line that ends in an option without its value
    given = context.params.get("store") or next(iter(context.args), None)
    with suppress(LppError, OSError):
        return [] if given is None else _fitting(names(open_store(given)), incomplete)
    return []


def _fitting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """The names that complete the last of the comma-separated names typed so far."""
    before, comma, typed = incomplete.rpartition(",")
    fitting = (name for name in dict.fromkeys(names) if name.startswith(typed))
    return [CompletionItem(f"{before}{comma}{name}") for name in fitting]
