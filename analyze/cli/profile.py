"""`lpp-analyze profile`: compute, print, and put into the database."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import (
    chosen_executor,
    cluster_option,
    errors_option,
    executor_options,
    names,
    numbers,
    positions,
    runs_option,
    settings_options,
    sites_option,
)
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.store.commands.completion import complete_names
from lpp.store.commands.console import LppCommand, debug_option
from lpp.store.commands.progress import progress


def _every_metric() -> Iterable[str]:
    from lpp.analyze.metrics.registry import METRICS

    return METRICS


AGGREGATIONS: Final = ("min", "max", "mean", "median")
FINAL: Final = "final"


@click.command(cls=LppCommand)
@click.argument("store")
@settings_options
@sites_option(None)
@runs_option
@click.option(
    "--entropy-by",
    type=click.Choice(AGGREGATIONS),
    default="min",
    show_default=True,
    help="Print this aggregate of the entropy over prefixes.",
)
@click.option(
    "--rank-by",
    type=click.Choice(AGGREGATIONS),
    default="max",
    show_default=True,
    help="Print this aggregate of the ranks over prefixes.",
)
@click.option(
    "--drop-prefixes",
    callback=numbers,
    metavar="N,...",
    help="Leave these prefixes out of the aggregates.",
)
@click.option(
    "--skip-first",
    callback=positions,
    metavar="K,...",
    default="0",
    show_default=True,
    help="Compute ranks without the first K tokens of each prompt, often attention sinks, for "
    "each K. given: from the first token that the model wrote (lpp-capture run --continue).",
)
@click.option(
    "--metrics",
    callback=names,
    shell_complete=complete_names(_every_metric),
    metavar="NAME,...",
    default="paper",
    show_default=True,
    help="Compute these metrics; `lpp-analyze metrics` lists them.",
)
@errors_option("final")
@click.option(
    "--groups",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    help="Divide the prompts into this many groups for the jackknife.",
)
@cluster_option
@page_options("bars")
@executor_options
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
    skip_first: tuple[Any, ...],
    metrics: tuple[str, ...],
    errors: Any,
    groups: int,
    cluster: str | None,
    form: str | None,
    output: Path | None,
    everything: bool,
    jobs: int | None,
    executor: Any,
    address: str | None,
) -> None:
    """Compute and print the profiles of STORE.

    A capture holds every shorter context and every smaller number of prompts: --context and
    --prompts need no new capture. Runs and sites may be patterns.

    Without --site every site is computed, and `final` is printed. The database of STORE holds every
    profile: minima of the entropy and maxima of the ranks over prefixes, whatever --entropy-by and
    --rank-by print. Numbers that were computed before are not computed again; they stay until the
    shards of their run change.

    Metrics that are not the paper's are printed at the longest prefix. The table `metrics` holds
    them at every prefix; csv and json hold the profiles alone. Only what the chosen metrics need is
    computed.

    Each number has a standard error over prompts: that of a mean for the entropy, a jackknife for
    the others. For the effective rank the jackknife takes --groups times as long as the number. So
    errors are computed only at `final`, or at the deepest chosen site; --errors chooses all sites
    or none. Groups are neighbouring prompts; --cluster keeps prompts of one document together.

    \b
        lpp-analyze profile ./lpp
        lpp-analyze profile ./lpp --context 50,100,200 --prompts 10,100
        lpp-analyze profile ./lpp --site 'final,block.*' --format csv
        lpp-analyze profile ./lpp --format bars
        lpp-analyze profile ./lpp --drop-prefixes 20 --entropy-by median
        lpp-analyze profile ./lpp --metrics paper,stable_rank,'zscore_*'
        lpp-analyze profile ./lpp --metrics participation_ratio --errors all
        lpp-analyze profile ./lpp --skip-first 0,2
        lpp-analyze profile ./lpp --skip-first given
        lpp-analyze profile ./lpp --cluster document
        lpp-analyze profile s3://lab/lpp --executor ray --address auto
    """
    from lpp.analyze.metrics.registry import chosen as asked_of
    from lpp.analyze.metrics.registry import needing_rows
    from lpp.analyze.pages.words import Code
    from lpp.analyze.runs.given import resolved
    from lpp.analyze.runs.keys import views as all_views
    from lpp.analyze.runs.named import names_of
    from lpp.analyze.runs.select import (
        Selection,
        check_dropped,
        n_sites,
        select_among,
        select_sites,
        shortfalls,
    )
    from lpp.analyze.studies.profile_page import EXTREMES, profile_page
    from lpp.analyze.studies.profile_summary import FEW
    from lpp.analyze.tables.analysis import analyze_views
    from lpp.analyze.tables.build import write_database
    from lpp.analyze.tables.database import differences_of, held_profiles
    from lpp.analyze.tables.entropy import uncaptured_lines

    check_page(form, output)
    dropped = drop_prefixes or ()
    selection = Selection(
        runs=runs,
        sites=sites or ("*",),
        contexts=contexts,
        prompts=prompts,
        skip_first=resolved(store, runs, skip_first),
    )
    every = all_views(store)
    views, incomplete = select_among(store, every, selection)
    chosen = select_sites(views, selection)
    check_dropped(views, selection, dropped)
    lines = uncaptured_lines(views, contexts)
    lines += needing_rows(views, asked_of(metrics))
    for line in (*incomplete, *shortfalls(views, selection), *lines):
        click.echo(line, err=True)
    total, names = n_sites(views, chosen), names_of(views)
    with (
        chosen_executor(executor, address, jobs) as who,
        progress("Spectra", total, "sites") as bar,
    ):
        analysis = analyze_views(
            views,
            selection,
            comparable_among=every,
            names=names,
            left_out=incomplete,
            metrics=metrics,
            errors=errors,
            groups=groups,
            cluster=cluster,
            progress=bar,
            executor=who,
        )
    kept = analysis.profiles(drop_prefixes=dropped)
    found = kept
    if (entropy_by, rank_by) != EXTREMES:
        found = analysis.profiles(entropy=entropy_by, ranks=rank_by, drop_prefixes=dropped)
    database = in_database(
        "The profiles are", lambda: write_database(store, analysis, profiles=kept)
    )
    shown = found.filter(site=FINAL) if sites is None and FINAL in chosen else found
    aggregates = (entropy_by, rank_by)
    few = database is not None and aggregates == EXTREMES and len(views) <= FEW
    differences = differences_of(store, [view.run.id for view in views]) if few else None
    page = profile_page(
        store,
        analysis,
        shown,
        names,
        aggregates=aggregates,
        differences=differences,
        held=()
        if database is None
        else (f"{held_profiles(store)} are in ", Code(f"{database}"), "."),
    )
    show(page, form, output, everything=everything, stored=database is not None)
