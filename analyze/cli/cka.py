"""`lpp-analyze cka`: how alike neighbouring sites are."""

import shlex

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import format_option, runs_option, sites_option, skip_first_option
from lpp.store.commands.console import debug_option, write_exact
from lpp.store.commands.progress import progress


@click.command()
@click.argument("store")
@runs_option
@sites_option()
@click.option(
    "--prefix",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use the first N tokens of each prompt. Default: all.",
)
@click.option(
    "--prompts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use the first N prompts. Default: all.",
)
@skip_first_option
@click.option("--all-pairs", is_flag=True, help="Compare every two sites, not only neighbours.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Multiply N pairs at once. Default: one for each core.",
)
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=2,
    show_default=True,
    help="Use this much memory for matrices; with more, each site is read fewer times.",
)
@format_option("table", "csv")
@debug_option
def cka(
    *,
    store: str,
    runs: tuple[str, ...],
    sites: tuple[str, ...],
    prefix: int | None,
    prompts: int | None,
    skip_first: int,
    all_pairs: bool,
    jobs: int | None,
    memory_gib: float,
    form: str,
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
    from lpp.analyze.runs.select import Selection, select_runs, select_sites
    from lpp.analyze.studies import cka_table
    from lpp.analyze.text.cka import as_text
    from lpp.analyze.text.names import with_names
    from lpp.analyze.text.text import as_csv

    asked = None if prompts is None else (prompts,)
    selection = Selection(runs=runs, sites=sites, prompts=asked)
    views, incomplete = select_runs(store, selection)
    work, left_out = cka_table.plan(
        views,
        select_sites(views, selection),
        prefix=prefix,
        prompts=prompts,
        first_position=skip_first,
        every=all_pairs,
    )
    for line in (*incomplete, *left_out):
        click.echo(line, err=True)
    with progress("CKA", sum(len(part.pairs) for part in work), "pairs of sites") as bar:
        memory = int(memory_gib * (1 << 30))
        found = cka_table.compute(work, jobs=jobs, memory=memory, progress=bar)
    database = in_database("The CKA is", lambda: cka_table.write(store, found))
    names = names_of(views)
    if form == "csv":
        write_exact(as_csv(with_names(found, names)))
        return
    click.echo(as_text(found, names), nl=False)
    if database is not None:
        click.echo(f"{len(found)} pairs are in {database}.")
        select = "SELECT run, site, other_site, cka FROM cka"
        click.echo(f'Next: lpp-sql {shlex.quote(store)} "{select}"')
