"""`lpp-analyze`: open a store, compute, print."""

import shlex
from pathlib import Path
from typing import Any, Final

import click

from lpp.analyze.cli_metrics import metrics
from lpp.store.console import LppGroup, debug_option, progress

AGGREGATIONS: Final = ("min", "max", "mean", "median")
FINAL: Final = "final"


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """`final,block.*` as a tuple; None stays."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """`50,100` as a tuple; None stays."""
    parts = () if value is None else tuple(part.strip() for part in value.split(","))
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 50,100")
    return None if value is None else tuple(int(part) for part in parts)


@click.group(cls=LppGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lpp-engine")
@debug_option
def main() -> None:
    """Compute latent performance profiles from a store. No model is needed.

    \b
        lpp-analyze profile ./lpp
        lpp-analyze metrics
        lpp-analyze verify ./lpp
    """


main.add_command(metrics)


@main.command()
@click.argument("store")
@click.option("--context", "contexts", callback=_numbers, metavar="N,...", help="Contexts.")
@click.option("--prompts", callback=_numbers, metavar="N,...", help="The first so many prompts.")
@click.option("--site", "sites", callback=_names, metavar="NAME,...", help="Sites, or all.")
@click.option("--run", "runs", callback=_names, metavar="NAME,...", help="Runs.", default="*")
@click.option("--entropy-by", type=click.Choice(AGGREGATIONS), default="min", show_default=True)
@click.option("--rank-by", type=click.Choice(AGGREGATIONS), default="max", show_default=True)
@click.option(
    "--drop-prefixes", callback=_numbers, metavar="N,...", help="Prefixes that take no part."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "csv", "json")),
    default="table",
    show_default=True,
)
@debug_option
def profile(
    *,
    store: str,
    contexts: tuple[int, ...] | None,
    prompts: tuple[int, ...] | None,
    sites: tuple[str, ...] | None,
    runs: tuple[str, ...],
    entropy_by: Any,
    rank_by: Any,
    drop_prefixes: tuple[int, ...] | None,
    form: str,
) -> None:
    """Compute the profiles of STORE, print them, and rebuild its database.

    Contexts up to the captured one (the default) and numbers of prompts up to those captured
    (the default) come from the same store. Runs and sites may be patterns.

    Without --site every site goes into the database, and `final` is printed. What was computed
    before is not computed again. The database holds what one command asked for: floors of the
    entropy and maxima of the ranks, whatever --entropy-by and --rank-by print.

    \b
        lpp-analyze profile ./lpp
        lpp-analyze profile ./lpp --context 50,100,200 --prompts 10,100
        lpp-analyze profile ./lpp --site 'final,block.*' --format csv
        lpp-analyze profile ./lpp --drop-prefixes 20 --entropy-by median
    """
    from lpp.analyze import render
    from lpp.analyze.select import Selection, select_runs, select_sites, shortfalls
    from lpp.analyze.tables import analyze, write_database

    dropped = drop_prefixes or ()
    selection = Selection(runs=runs, sites=sites or ("*",), contexts=contexts, prompts=prompts)
    views = select_runs(store, selection)
    chosen = select_sites(views, selection)
    for line in shortfalls(views, selection):
        click.echo(line, err=True)
    total = sum(site in chosen for view in views for site in view.run.sites)
    with progress("Spectra", total, "sites") as bar:
        analysis = analyze(store, selection, progress=bar)
    found = analysis.profiles(entropy=entropy_by, ranks=rank_by, drop_prefixes=dropped)
    database = write_database(store, analysis, drop_prefixes=dropped)
    shown = found.filter(site=FINAL) if sites is None and FINAL in chosen else found
    if form != "table":
        click.echo(render.FORMATS[form](shown), nl=False)
        return
    click.echo(render.as_table(shown, entropy=entropy_by, ranks=rank_by), nl=False)
    click.echo(f"{len(found)} profiles of {len(chosen)} sites are in {database}.")
    click.echo(
        f'Next: lpp-sql {shlex.quote(store)} "SELECT * FROM profiles ORDER BY entropy_floor"'
    )


@main.command()
@click.argument("store")
@debug_option
def verify(store: str) -> int:
    """Compare every byte of STORE with its checksums; exit 1 if any differs.

    \b
        lpp-analyze verify ./lpp
    """
    from lpp.store import open_store

    opened = open_store(store)
    problems = 0
    with progress("Verify", len(opened.runs), "runs") as bar:
        for run in opened.runs.values():
            found = run.verify()
            for problem in found:
                click.echo(Path(run.path.relative_to(opened.path)) / str(problem))
            problems += len(found)
            bar.advance()
            bar.note(f"{run.id} {'has problems' if found else 'is as it was committed'}")
    if problems:
        click.echo(
            f"{problems} problem{'s' if problems > 1 else ''}. Delete a damaged shard's directory "
            "and repeat the `lpp-capture run` command: it resumes.",
            err=True,
        )
    return int(problems > 0)


if __name__ == "__main__":
    main()
