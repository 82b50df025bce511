"""`lpp-analyze layers`: ranks through the depth of a model."""

from pathlib import Path
from typing import Any

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import chosen_executor, executor_options
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.analyze.questions import LayersSettings
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(LayersSettings)
@page_options()
@executor_options
@debug_option
def layers(
    *,
    store: str,
    form: str | None,
    output: Path | None,
    everything: bool,
    jobs: int | None,
    executor: Any,
    address: str | None,
    **options: Any,
) -> None:
    """Show ranks by depth, and the hourglass score of each model.

    For each site: participation ratio and effective rank, in dimensions and divided by min(N, d),
    and the share of the first eigenvalue, over all tokens up to the context. The hourglass score is
    above 0 if both ends of a model use more dimensions than its middle third. Collapsed layers are
    left out of the score and counted. Tables `layers` and `hourglass` of the database hold the
    numbers.

    The first few tokens of a prompt can be attention sinks: their states are a hundred times larger
    than all others, which alone makes ranks close to 1. If a run has sinks, its ranks are shown
    twice: over all positions, and without the sinks and the position after them. --skip-first
    chooses other positions; if 0 is among them, the curve without sinks is shown too.

    \b
        lpp-analyze layers ./lpp
        lpp-analyze layers ./lpp --context 50 --site 'block.*,final'
        lpp-analyze layers ./lpp --skip-first 1,4 --errors final
        lpp-analyze layers ./lpp --format csv
    """
    from lpp.analyze.runs.given import resolved
    from lpp.analyze.runs.named import names_of
    from lpp.analyze.runs.select import select_runs, select_sites
    from lpp.analyze.studies import layers as library
    from lpp.analyze.studies.layers_page import layers_page

    check_page(form, output)
    asked = resolved(store, taken(LayersSettings, options))
    views, _ = select_runs(store, asked)
    total = library.n_steps(views, asked, select_sites(views, asked))
    with chosen_executor(executor, address, jobs) as who, progress("Layers", total, "steps") as bar:
        found = library.layers(store, asked, progress=bar, executor=who)
    for line in found.left_out:
        click.echo(line, err=True)
    database = in_database("The layers are", lambda: library.write(store, found))
    page = layers_page(store, found, names_of(views))
    show(page, form, output, everything=everything, stored=database is not None)
