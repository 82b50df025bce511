"""What every command that answers a question does with its page: print it, or write it."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.store.commands.output import chosen_format, output_file, suffix_of

if TYPE_CHECKING:
    from lpp.analyze.pages.page import Page

FORMATS: Final = ("text", "md", "html", "json", "csv")
"""For a terminal, for a pull request, for a browser, and for programs."""

PICTURES: Final = ("svg", "png")
"""Endings of --output that write the picture of a page."""


class _Format(click.Choice[str]):
    """One of `FORMATS`, and of what else a command has; `table` is the old name of text."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return super().convert("text" if value == "table" else value, param, ctx)


def page_options(*more: str) -> Callable[[Any], Any]:
    """`--format`, `-o` and `--all`: how a page is shown. more: formats that one command has."""

    def declare(command: Any) -> Any:
        command = click.option(
            "--all", "everything", is_flag=True, help="Show every table, not only those in short."
        )(command)
        command = click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            callback=output_file,
            metavar="FILE",
            help="Write to FILE; .svg and .png are the page's picture. Default: standard output.",
        )(command)
        return click.option(
            "--format",
            "form",
            type=_Format((*FORMATS, *more)),
            help="Write in this format. Default: what the name of --output ends in, or text.",
        )(command)

    return declare


def check_page(form: str | None, output: Path | None) -> None:
    """Refuse a page that could not be written, before anything is computed for it.

    Raises UsageError, InputError, MachineError(NO_PACKAGE) without the extra `report`.
    """
    from lpp.analyze.pages.output import check_output

    chosen = chosen_format(form, output, FORMATS, PICTURES)
    if output is not None:
        check_output(output)
    if chosen == "html" or suffix_of(output) in PICTURES:
        import_module("lpp.analyze.charts.library")


def show(
    page: "Page", form: str | None, output: Path | None = None, *, everything: bool = False
) -> None:
    """Print `page`, or write it to `output` and print the path."""
    from lpp.analyze.pages.write import written
    from lpp.sql.results.output import text_output

    if output is not None and suffix_of(output) in PICTURES:
        charts = list(page.charts)
        if not charts:
            raise click.UsageError(f"{output}: this answer has no picture.")
        min(charts, key=lambda chart: not chart.opens).write(output)
    else:
        chosen = chosen_format(form, output, FORMATS)
        with text_output(output) as stream:
            stream.write(written(page, chosen, everything=everything))
    if output is not None:
        click.echo(output)
