"""`lpp-analyze profile`: compute, print, and put into the database."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import chosen_executor, executor_options
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.analyze.questions import ProfileSettings
from lpp.store.terminal.completion import complete_names
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress


def _every_metric() -> Iterable[str]:
    from lpp.analyze.metrics.registry import METRICS

    return METRICS


FINAL: Final = "final"


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(ProfileSettings, metrics=complete_names(_every_metric))
@page_options("bars")
@executor_options
@debug_option
def profile(
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
    asked = resolved(store, taken(ProfileSettings, options))
    every = all_views(store)
    views, incomplete = select_among(store, every, asked)
    chosen = select_sites(views, asked)
    check_dropped(views, asked, asked.drop_prefixes)
    lines = uncaptured_lines(views, asked.contexts)
    lines += needing_rows(views, asked_of(asked.metrics))
    for line in (*incomplete, *shortfalls(views, asked), *lines):
        click.echo(line, err=True)
    total, names = n_sites(views, chosen), names_of(views)
    with (
        chosen_executor(executor, address, jobs) as who,
        progress("Spectra", total, "sites") as bar,
    ):
        analysis = analyze_views(
            views,
            asked,
            comparable_among=every,
            names=names,
            left_out=incomplete,
            progress=bar,
            executor=who,
        )
    kept = analysis.profiles(drop_prefixes=asked.drop_prefixes)
    found, aggregates = kept, (asked.entropy_by, asked.rank_by)
    if aggregates != EXTREMES:
        found = analysis.profiles(
            entropy=asked.entropy_by, ranks=asked.rank_by, drop_prefixes=asked.drop_prefixes
        )
    database = in_database(
        "The profiles are", lambda: write_database(store, analysis, profiles=kept)
    )
    source = click.get_current_context().get_parameter_source("sites")
    briefly = source is ParameterSource.DEFAULT and FINAL in chosen
    few = database is not None and aggregates == EXTREMES and len(views) <= FEW
    differences = differences_of(store, [view.run.id for view in views]) if few else None
    page = profile_page(
        store,
        analysis,
        found.filter(site=FINAL) if briefly else found,
        names,
        aggregates=aggregates,
        differences=differences,
        held=()
        if database is None
        else (f"{held_profiles(store)} are in ", Code(f"{database}"), "."),
    )
    show(page, form, output, everything=everything, stored=database is not None)
