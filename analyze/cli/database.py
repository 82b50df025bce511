"""The database of a store, for commands that print what they computed whether or not it is kept."""

from collections.abc import Callable
from typing import TypeVar

import click

from lpp.store.errors import LppError

Result = TypeVar("Result")


def in_database(what: str, write: Callable[[], Result]) -> Result | None:
    """What `write`, which puts numbers into the database of the store, returns.

    If the database cannot be written, as in a read-only store, a line on standard error says why,
    and the result is None. what: the beginning of that line, such as `The profiles are`.
    """
    try:
        return write()
    except LppError as error:
        click.echo(f"{what} not in the database: {error}", err=True)
        return None
