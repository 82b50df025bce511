"""`lpp-capture models`: whether a class of transformers can be captured."""

from collections import Counter
from difflib import get_close_matches

import click

from lpp.capture.models.known import known_models
from lpp.store.errors import ErrorKind, InputError
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.units import fold


@click.command(cls=LppCommand)
@click.argument("name", default="")
@debug_option
def models(name: str) -> None:
    """Say whether models of a class can be captured.

    \b
    Examples:
      lpp-capture models
      lpp-capture models qwen3

    NAME is a class of transformers, the model_type in a model's config.json, or
    a part of either. Without NAME, classes are counted. A small random model of
    each class was tried: docs/models.md says how. Loads no model.
    """
    rows = {f"{row['model_type']} {row['class']}".lower(): row for row in known_models()}
    name = name.lower()
    chosen = [row for key, row in rows.items() if name in key.split()]
    chosen = chosen or [row for key, row in rows.items() if name in key]
    if not chosen:
        near = get_close_matches(name, " ".join(rows).split())
        raise InputError(
            f"no class of transformers was tried whose name or model_type has {name!a} in it. "
            + (f"Ask for {' or '.join(near)}." if near else "Try it: `lpp-capture run --dry-run`."),
            kind=ErrorKind.NOT_FOUND,
        )
    for row in chosen if name else ():
        said = row["why"] or f"error below {row['error_below']}"
        line = f"{row['class']} ({row['model_type']}): {row['status']}, {said}"
        click.echo("\n".join(fold(line, "  ")))
    if len(chosen) > 1:
        statuses = Counter(row["status"] for row in chosen).most_common()
        counts = ", ".join(f"{n} {status}" for status, n in statuses)
        click.echo(f"{len(chosen)} classes of transformers {chosen[0]['transformers']}: {counts}")
    if not name:
        click.echo("To see one: lpp-capture models NAME")
