"""`lpp-analyze cka`: how alike neighbouring sites are."""

import shlex
from typing import Any

import click

from lpp.store.commands.console import debug_option, write_exact
from lpp.store.commands.progress import progress


def _names(_ctx: click.Context, _param: click.Parameter, value: str) -> Any:
    """`final,block.*` as a tuple."""
    return tuple(part.strip() for part in value.split(","))


@click.command()
@click.argument("store")
@click.option("--run", "runs", callback=_names, metavar="NAME,...", help="Runs.", default="*")
@click.option("--site", "sites", callback=_names, metavar="NAME,...", help="Sites.", default="*")
@click.option("--prefix", type=click.IntRange(min=1), help="Tokens of each prompt; all by default.")
@click.option("--prompts", type=click.IntRange(min=1), help="The first so many; all by default.")
@click.option("--all-pairs", is_flag=True, help="Every two sites, not neighbours alone.")
@click.option("--format", "form", type=click.Choice(("table", "csv")), default="table")
@debug_option
def cka(
    *,
    store: str,
    runs: tuple[str, ...],
    sites: tuple[str, ...],
    prefix: int | None,
    prompts: int | None,
    all_pairs: bool,
    form: str,
) -> None:
    """Compare sites of each run in STORE by linear CKA; fill the table `cka`.

    1: the same but for a rotation and a scale; unrelated rows have about d / (tokens + d). With
    --site the chosen sites are each other's neighbours. Two sites are read at a time, so memory
    is a few matrices d x d; --all-pairs reads each site as often as there are others.

    \b
        lpp-analyze cka ./lpp
        lpp-analyze cka ./lpp --run 'smol*' --prefix 50
        lpp-analyze cka ./lpp --site embed,block.15,final --all-pairs --format csv
    """
    from lpp.analyze.runs.select import Selection, select_runs, select_sites
    from lpp.analyze.studies import cka_table
    from lpp.analyze.text.text import as_csv

    asked = None if prompts is None else (prompts,)
    selection = Selection(runs=runs, sites=sites, prompts=asked)
    views, incomplete = select_runs(store, selection)
    work, left_out = cka_table.plan(
        views, select_sites(views, selection), prefix=prefix, prompts=prompts, every=all_pairs
    )
    for line in (*incomplete, *left_out):
        click.echo(line, err=True)
    with progress("CKA", sum(len(part.pairs) for part in work), "pairs of sites") as bar:
        found = cka_table.compute(work, progress=bar)
    database = cka_table.write(store, found)
    if form == "csv":
        write_exact(as_csv(found))
        return
    click.echo(cka_table.as_text(found), nl=False)
    click.echo(f"{len(found)} pairs are in {database}.")
    click.echo(f'Next: lpp-sql {shlex.quote(store)} "FROM cka ORDER BY run, depth"')
