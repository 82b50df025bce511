"""`lpp-analyze layers`: ranks through the depth of a model."""

from pathlib import Path
from typing import Any

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import (
    chosen_executor,
    errors_option,
    executor_options,
    positions,
    runs_option,
    settings_options,
    sites_option,
)
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.store.commands.console import LppCommand, debug_option
from lpp.store.commands.progress import progress


@click.command(cls=LppCommand)
@click.argument("store")
@settings_options
@sites_option()
@runs_option
@click.option(
    "--skip-first",
    callback=positions,
    metavar="K,...",
    help="Leave out the first K tokens of each prompt, for each K. Default: 0, and as many as "
    "the attention sinks of a run need.",
)
@errors_option("none")
@page_options()
@executor_options
@debug_option
def layers(
    *,
    store: str,
    contexts: tuple[int, ...] | None,
    prompts: tuple[int, ...] | None,
    sites: tuple[str, ...],
    runs: tuple[str, ...],
    skip_first: tuple[Any, ...] | None,
    errors: Any,
    form: str | None,
    output: Path | None,
    everything: bool,
    jobs: int | None,
    executor: Any,
    address: str | None,
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
    from lpp.analyze.runs.select import Selection, select_runs, select_sites
    from lpp.analyze.studies import layers as library
    from lpp.analyze.studies.layers_page import layers_page

    check_page(form, output)
    selection = Selection(
        runs=runs,
        sites=sites,
        contexts=contexts,
        prompts=prompts,
        skip_first=resolved(store, runs, skip_first or (0,)),
    )
    views, _ = select_runs(store, selection)
    chosen = select_sites(views, selection)
    total = library.n_steps(views, selection, chosen)
    with chosen_executor(executor, address, jobs) as who, progress("Layers", total, "steps") as bar:
        found = library.layers(store, selection, errors=errors, progress=bar, executor=who)
    for line in found.left_out:
        click.echo(line, err=True)
    database = in_database("The layers are", lambda: library.write(store, found))
    page = layers_page(store, found, names_of(views))
    show(page, form, output, everything=everything, stored=database is not None)
