"""`lpp-analyze report`: profiles that people look at."""

import shlex
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lpp.analyze.cli.options import file_format_option, trust_option
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.output import chosen_format, output_file
from lpp.store.terminal.progress import progress

_FORMATS = ("html", "png", "svg", "md")
PICTURES = ("png", "svg")


@click.command(cls=LppCommand)
@click.argument("store")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=output_file,
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="Write to FILE; png and svg write one file for each chart, named after FILE. Without -o, "
    "--format sets the ending.",
)
@trust_option
@file_format_option(*_FORMATS)
@click.option(
    "--against",
    metavar="BASE",
    shell_complete=complete_runs,
    help="Compare the other runs with BASE. Default: the first run by id.",
)
@debug_option
@click.pass_context
def report(
    ctx: click.Context, *, store: str, output: Path | None, form: Any, against: str | None
) -> None:
    """Write what the database of STORE holds as one page.

    The page opens from disk, without a network. It shows which models were captured on what, which
    differences are more than noise, depth, surprising tokens, benchmarks, what to
    distrust, and provenance. Nothing is computed: the page shows what the database, the analysis
    cache and the token statistics hold, and names the command for what is missing. png and svg are
    pictures for papers; md is a summary for a pull request. A file appears when it is whole; of two
    reports into one file, the later one stays.

    \b
        lpp-analyze report ./lpp -o report.html
        lpp-analyze report ./lpp -o figures/lpp.svg
        lpp-analyze report ./lpp -o summary.md
    """
    from lpp.analyze.report.report import STEPS, report_text, write_report

    if form and ctx.get_parameter_source("output") is ParameterSource.DEFAULT:
        output = Path(f"report.{form}")
    form = chosen_format(form, output, _FORMATS)
    if output is None and form in PICTURES:
        raise click.UsageError(f"{form} is a file for each chart: name one with --output FILE.")
    with progress("Report", STEPS, "steps") as bar:
        if output is None:
            click.echo(report_text(store, form, against=against, progress=bar), nl=False)
            return
        written = write_report(store, output, form, against=against, progress=bar)
    for path in written:
        click.echo(path)
    if not written:
        click.echo(f"No chart has data. Compute it: lpp-analyze profile {shlex.quote(store)}")
