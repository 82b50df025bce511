"""`lpp-analyze sensitivity`: profiles over a grid of settings, and the order of models."""

from pathlib import Path
from typing import Any

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import chosen_executor, executor_options
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.analyze.questions import SensitivitySettings
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

PARTS = ("grid", "agreement")


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(SensitivitySettings)
@page_options()
@click.option(
    "--part",
    type=click.Choice(PARTS),
    help="Show this part only. Default: both; with csv, grid.",
)
@executor_options
@debug_option
def sensitivity(
    *,
    store: str,
    form: str | None,
    output: Path | None,
    everything: bool,
    part: Any,
    jobs: int | None,
    executor: Any,
    address: str | None,
    **options: Any,
) -> None:
    """Show how profiles change with context, prompts and site.

    Contexts are 50, 100, 200, 500, and numbers of prompts 10, 100, 500, 1000, as far as a run holds
    them, and the most that every run holds. --context and --prompts choose others. No model runs:
    every setting comes from the captured states, and the tokens that this saves are printed.

    With three models or more, rank agreement says whether two settings put the models in the same
    order. Tables `sensitivity` and `agreement` of the database hold every number, in every
    aggregation over prefixes.

    \b
        lpp-analyze sensitivity ./lpp
        lpp-analyze sensitivity ./lpp --context 50,200 --prompts 10,100
        lpp-analyze sensitivity ./lpp --site 'final,block.*' --format csv
        lpp-analyze sensitivity ./lpp --part agreement --format csv
    """
    from lpp.analyze.runs.named import names_of
    from lpp.analyze.runs.select import n_sites, select_runs
    from lpp.analyze.studies import sensitivity as library
    from lpp.analyze.studies.grid import grid_axes
    from lpp.analyze.studies.sensitivity_page import sensitivity_page

    check_page(form, output)
    asked = taken(SensitivitySettings, options)
    selection = library.selection_of(asked)
    views, _ = select_runs(store, selection)
    total = n_sites(views, grid_axes(views, selection).sites)
    with (
        chosen_executor(executor, address, jobs) as who,
        progress("Spectra", total, "sites") as bar,
    ):
        found = library.sensitivity(store, asked, progress=bar, executor=who)
    for line in found.left_out:
        click.echo(line, err=True)
    database = in_database("The sensitivity is", lambda: library.write(store, found))
    page = sensitivity_page(store, found, names_of(views), part=part)
    show(page, form, output, everything=everything, stored=database is not None)
