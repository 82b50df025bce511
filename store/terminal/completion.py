"""Shell completion: names in the store that the command line gives.

click runs it in a separate process, so an answer takes as long as opening a store. If the line has
a mistake, such as a store that does not exist, nothing is offered: the command itself reports it.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from lpp.store.errors import LppError
from lpp.store.terminal.escaping import escape

if TYPE_CHECKING:
    from lpp.store import Store

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
Found = Callable[["Store"], Mapping[str, str | None]]


def complete_runs(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids of the runs of the store that the command names, of which the id or the name begins
    with what was typed; zsh and fish show the names.
    """

    def described(store: "Store") -> dict[str, str | None]:
        names = {run: escape(name, keep="") for run, name in store.names.items()}
        return {run: names.get(run) for run in store.runs}

    return _of_store(context, incomplete, described)


def complete_sites(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Sites that any run of that store keeps, in depth order."""
    return _of_store(
        context,
        incomplete,
        lambda store: dict.fromkeys(s for run in store.runs.values() for s in run.sites),
        listed=True,
    )


def complete_names(names: Callable[[], Iterable[str]]) -> Complete:
    """A completion of `names`, which are computed when the user presses TAB."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _fitting(dict.fromkeys(names()), incomplete, listed=True)

    return complete


def _of_store(
    context: click.Context, incomplete: str, describe: Found, *, listed: bool = False
) -> list[CompletionItem]:
    from lpp.store import open_store

    # click parses no argument of a line that ends in an option without its value
    given = context.params.get("store") or next(iter(context.args), None)
    with suppress(LppError, OSError):
        if given is not None:
            return _fitting(describe(open_store(given)), incomplete, listed=listed)
    return []


def _fitting(
    names: Mapping[str, str | None], incomplete: str, *, listed: bool
) -> list[CompletionItem]:
    """The names that complete what was typed, with their help.

    listed: names are separated by commas, and the last one is completed.

    A help that begins with what was typed, in any case, counts too: bash and zsh replace what was
    typed, and fish drops what does not contain it.
    """
    before, comma, typed = incomplete.rpartition(",") if listed else ("", "", incomplete)
    return [
        CompletionItem(f"{before}{comma}{name}", help=text)
        for name, text in names.items()
        if name.startswith(typed) or (text or "").casefold().startswith(typed.casefold())
    ]
