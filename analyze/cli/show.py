"""What every command that answers a question does with its page: print it, or write it."""

import sys
from collections.abc import Callable
from functools import reduce, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.store.terminal.output import chosen_format, output_file, suffix_of

if TYPE_CHECKING:
    from lpp.analyze.pages.page import Page
    from lpp.analyze.pages.reply import Reply

_FORMATS: Final = ("text", "md", "html", "json", "csv")
"""Formats for a terminal, a pull request, a browser, and (json, csv) programs."""

PICTURES: Final = ("svg", "png")
"""Endings of --output that write the picture of a page."""


class _Format(click.Choice[str]):
    """One of `_FORMATS`; `table` is the old name of text."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return super().convert("text" if value == "table" else value, param, ctx)


def page_options() -> Callable[[Callable[..., "Reply"]], Any]:
    """`--format`, `-o` and `--all` of a command that returns a reply: they show its page."""
    options = (
        click.option(
            "--all", "everything", is_flag=True, help="Show every table, not only those in short."
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            callback=output_file,
            metavar="FILE",
            help="Write to FILE; .svg and .png are the page's picture. Default: standard output.",
        ),
        click.option(
            "--format",
            "form",
            type=_Format(_FORMATS),
            help="Write in this format. Default: what the name of --output ends in, or text.",
        ),
    )

    def declare(question: Callable[..., "Reply"]) -> Any:
        @wraps(question)
        def command(*, form: str | None, output: Path | None, everything: bool, **rest: Any) -> int:
            check_page(form, output)
            reply = question(**rest)
            if output is not None and not (form and suffix_of(output) in PICTURES):
                click.echo(reply.beside, nl=False)
            show(reply.page, form, output, everything=everything)
            if reply.error is not None:
                raise reply.error
            return int(reply.failed)

        return reduce(lambda declared, option: option(declared), options, command)

    return declare


def check_page(form: str | None, output: Path | None) -> None:
    """Refuse a page that could not be written, before anything is computed for it.

    Raises UsageError, InputError, MachineError(NO_PACKAGE) without the extra `report`.
    """
    from lpp.analyze.pages.output import check_output

    chosen = chosen_format(form, output, _FORMATS, PICTURES)
    if output is not None:
        check_output(output)
    if chosen == "html" or suffix_of(output) in PICTURES:
        import_module("lpp.analyze.charts.theme")


def show(
    page: "Page",
    form: str | None,
    output: Path | None = None,
    *,
    everything: bool = False,
) -> None:
    """Print `page`, or write it to `output` and print the path.

    Beside a picture, the page itself is printed where a format is given; then the path is on
    standard error.
    """
    from lpp.analyze.pages.terminal import printable
    from lpp.analyze.pages.write import written
    from lpp.sql.results.output import text_output

    picture = suffix_of(output) in PICTURES
    if output is not None and picture:
        charts = list(page.charts)
        if not charts:
            raise click.UsageError(f"{output}: this answer has no picture.")
        min(charts, key=lambda chart: not chart.opens).write(output)
    if form or not picture:
        chosen = chosen_format(form, output, _FORMATS)
        target = None if picture else output
        text = written(page, chosen, everything=everything)
        if target is None and chosen == "text":
            text = printable(text, sys.stdout.encoding)
        with text_output(target) as stream:
            stream.write(text)
    if output is not None:
        click.echo(output, err=bool(form) and picture)
