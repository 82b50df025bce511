"""Values of command-line options that several commands share."""

from typing import Any

import click


def names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """`final,block.*` as a tuple; None stays."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


def numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """`50,100` as a tuple; None stays. BadParameter for anything but whole numbers."""
    parts = () if value is None else tuple(part.strip() for part in value.split(","))
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 50,100")
    return None if value is None else tuple(int(part) for part in parts)
