"""`lpp-analyze profile`: compute, print, and put into the database."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lpp.analyze.cli.options import executor_options, page_options
from lpp.analyze.questions import ProfileSettings
from lpp.store.terminal.completion import complete_names
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress


def _metric_names() -> Iterable[str]:
    from lpp.analyze.metrics.registry import METRICS

    return METRICS


if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(ProfileSettings, metrics=complete_names(_metric_names))
@page_options()
@executor_options
@debug_option
def profile(*, store: str, executor: Any, **options: Any) -> "Reply":
    """Compute and print the profiles of STORE.

    A capture holds every shorter context and every smaller number of prompts: --context and
    --prompts need no new capture. Runs and sites may be patterns.

    Without --sites every site is computed, and `final` is printed. The database of STORE holds
    every profile: minima of the entropy and maxima of the ranks over prefixes, whatever
    --entropy-by and --rank-by print. Numbers that were computed before are not computed again; they
    stay until the shards of their run change.

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
        lpp-analyze profile ./lpp --sites 'final,block.*' --format csv
        lpp-analyze profile ./lpp --drop-prefixes 20 --entropy-by median
        lpp-analyze profile ./lpp --metrics paper,stable_rank,'zscore_*'
        lpp-analyze profile ./lpp --metrics participation_ratio --errors all
        lpp-analyze profile ./lpp --skip-first 0,2
        lpp-analyze profile ./lpp --against base
        lpp-analyze profile ./lpp --skip-first given
        lpp-analyze profile ./lpp --cluster document
        lpp-analyze profile s3://lab/lpp --executor ray --address auto
    """
    from lpp.analyze.studies.answers import profile_answer

    settings, source = (
        taken(ProfileSettings, options),
        click.get_current_context().get_parameter_source("sites"),
    )
    with progress("Spectra", 0, "sites") as bar:
        return profile_answer(store, settings, source is ParameterSource.DEFAULT, bar, executor)
