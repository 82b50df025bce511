"""`lpp-analyze cka`: how alike neighbouring sites are."""

from pathlib import Path
from typing import Any

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import jobs_option
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.analyze.questions import CkaSettings
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(CkaSettings)
@jobs_option
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=2,
    show_default=True,
    help="Use this much memory for matrices; with more, each site is read fewer times.",
)
@page_options()
@debug_option
def cka(
    *,
    store: str,
    jobs: int | None,
    memory_gib: float,
    form: str | None,
    output: Path | None,
    everything: bool,
    **options: Any,
) -> None:
    """Compare sites of each run in STORE by linear CKA.

    CKA is 1 if the rows of two sites are equal up to a rotation and a scale. Unrelated rows have
    about d / (tokens + d). Neighbouring sites are compared; with --site, neighbours among the
    chosen sites. The table `cka` of the database holds the numbers. Each site is read once if the
    d x d matrices of all pairs fit into --memory-gib, and several times if they do not.

    \b
        lpp-analyze cka ./lpp
        lpp-analyze cka ./lpp --run 'smol*' --prefix 50 --skip-first 4
        lpp-analyze cka ./lpp --site embed,block.15,final --all-pairs --format csv
    """
    from lpp.analyze.runs.named import names_of
    from lpp.analyze.runs.select import select_runs, select_sites
    from lpp.analyze.studies import cka_table
    from lpp.analyze.studies.cka_page import cka_page

    check_page(form, output)
    asked = taken(CkaSettings, options)
    selection = cka_table.selection_of(asked)
    views, incomplete = select_runs(store, selection)
    work, left_out = cka_table.plan(views, select_sites(views, selection), asked)
    for line in (*incomplete, *left_out):
        click.echo(line, err=True)
    with progress("CKA", sum(len(part.pairs) for part in work), "pairs of sites") as bar:
        memory = int(memory_gib * (1 << 30))
        found = cka_table.compute(work, jobs=jobs, memory=memory, progress=bar)
    database = in_database("The CKA is", lambda: cka_table.write(store, found))
    page = cka_page(store, found, names_of(views))
    show(page, form, output, everything=everything, stored=database is not None)
