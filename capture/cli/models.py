"""`lpp-capture models`: whether a class of transformers can be captured."""

from collections import Counter
from difflib import get_close_matches

import click

from lpp.capture.models.known import found, known_models
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
    counts = Counter(row["status"] for row in rows.values())
    wanted = name.lower()
    exact = [row for key, row in rows.items() if wanted in key.split()]
    chosen = exact or [row for key, row in rows.items() if wanted in key]
    if not name:
        release = next(iter(rows.values()))["transformers"]
        click.echo(
            f"causal classes of transformers {release}: "
            + ", ".join(f"{n} {status}" for status, n in counts.most_common())
        )
        click.echo("one of them, by its name or model_type: lpp-capture models NAME")
    elif not chosen:
        near = get_close_matches(wanted, [word for key in rows for word in key.split()])
        raise InputError(
            f"no class of transformers was tried whose name or model_type has {name!a} in it. "
            + (f"Ask for {' or '.join(near)}." if near else "Try it: `lpp-capture run --dry-run`."),
            kind=ErrorKind.NOT_FOUND,
        )
    else:
        for row in chosen:
            line = f"{row['class']} ({row['model_type']}): {row['status']}, {found(row)}"
            click.echo("\n".join(fold(line, "  ")))
