"""`-o FILE`: where a command writes, and in which format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

_TEXTS: Final = ("text", "table")
"""Formats whose files end in `.txt`."""


def output_file(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    """The value of `--output`; None, which is standard output, for `-`."""
    return None if value == Path("-") else value


def suffix_of(output: Path | None) -> str:
    """The ending of the name of a file, in lower case and without its dot; empty: none.

    >>> suffix_of(Path("depth.SVG")), suffix_of(None)
    ('svg', '')
    """
    return "" if output is None else output.suffix[1:].lower()


def chosen_format(
    form: str | None, output: Path | None, formats: Sequence[str], pictures: Sequence[str] = ()
) -> str:
    """The value of `--format`; without it, the format that the ending of `output` names, or the
    first of `formats`. pictures: endings that the command handles itself.

    Raises UsageError for an ending that names no format.

    >>> chosen_format(None, Path("x.md"), ("text", "md")), chosen_format(None, None, ("text", "md"))
    ('md', 'text')
    """
    suffix = suffix_of(output)
    if form or not suffix or suffix in pictures:
        return form or formats[0]
    named = {"txt" if name in _TEXTS else name: name for name in formats}
    if suffix not in named:
        known = ", ".join(f".{ending}" for ending in dict.fromkeys([*named, *pictures]))
        raise click.UsageError(
            f"{output}: .{suffix} is no format of this command. End the name in one of {known}, or "
            "choose with --format."
        )
    return named[suffix]
