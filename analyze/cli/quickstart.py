"""`lpp-analyze quickstart`: a small store that comes with the package, and four questions to it."""

import importlib.util
import shlex
from pathlib import Path
from typing import Final

import click

from lpp.store.process.packages import install_command
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.progress import progress

CHARTS: Final = ("altair", "vl_convert", "jinja2")
"""Modules that a report needs: the extra `report`."""


@click.command(cls=LppCommand)
@click.option(
    "--store",
    default=Path("quickstart"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Unpack the store into this directory.",
)
@debug_option
def quickstart(store: Path) -> None:
    """Ask four questions of a small store that comes along.

    SmolLM2-135M, as it is and rounded to 4 bits, read 64 sentences of Python's reference, each with
    a topic and the article it comes from, and answered 60 questions. Neither torch nor the model is
    needed. A few seconds; `lpp-capture demo` captures a larger store.

    \b
        lpp-analyze quickstart
        lpp-analyze quickstart --store /tmp/first-look
    """
    from lpp.analyze.quickstart import first_answers, unpack
    from lpp.analyze.report.report import STEPS, write_report

    unpack(store)
    for question, command, answer in first_answers(store):
        click.echo(f"{question}\n\n  {shlex.join(command)}\n\n{answer}")
    report = store / "report.html"
    if all(map(importlib.util.find_spec, CHARTS)):
        with progress("Report", STEPS, "steps") as bar:
            write_report(str(store), report, progress=bar)
        click.echo(f"The report, for a browser: {report}")
    else:
        click.echo(
            f"For a report: {install_command('report')}; then: "
            + shlex.join(["lpp-analyze", "report", str(store), "-o", str(report)])
        )
