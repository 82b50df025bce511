"""The database of a store, for commands that print what they computed whether or not it is kept."""

from collections.abc import Callable
from typing import TypeVar

import click

from lpp.store.errors import LppError

Result = TypeVar("Result")


def in_database(what: str, write: Callable[[], Result]) -> Result | None:
    """What `write`, which puts `what` into the database of the store, returns.

    If the database cannot be written, such as in a store that is read-only, a line on standard
    error says why, and the result is None.
    """
    try:
        return write()
    except LppError as error:
        click.echo(f"Not in the database: {what}. {error}", err=True)
        return None
