"""`lpp-analyze layers` and `cka`: a model through its depth."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import executor_options, jobs_option, page_options, trust_option
from lpp.analyze.questions import CkaSettings, LayersSettings
from lpp.store.terminal.console import FiniteRange, LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(LayersSettings)
@page_options()
@executor_options
@debug_option
def layers(*, store: str, executor: Any, **options: Any) -> "Reply":
    """Show ranks by depth, and the hourglass score of each model.

    For each site: participation ratio and effective rank, in dimensions and divided by min(N, d),
    and the share of the first eigenvalue, over all tokens up to the context. The hourglass score is
    above 0 if both ends of a model use more dimensions than its middle third. Collapsed layers are
    left out of the score and counted. Of routers it shows how evenly they load their experts.
    Tables `layers`, `hourglass` and `expert_load` of the database hold the numbers.

    The first few tokens of a prompt can be attention sinks: their states are a hundred times larger
    than all others, which alone makes ranks close to 1. If a run has sinks, its ranks are shown
    twice: over all positions, and without the sinks and the position after them. --skip-first
    chooses other positions; if 0 is among them, the curve without sinks is shown too.

    \b
        lpp-analyze layers ./lpp
        lpp-analyze layers ./lpp --context 50 --sites 'block.*,final'
        lpp-analyze layers ./lpp --skip-first 1,4 --errors final
        lpp-analyze layers ./lpp --format csv
    """
    from lpp.analyze.studies.answers import layers_answer

    with progress("Layers", 0, "steps") as bar:
        return layers_answer(store, taken(LayersSettings, options), bar, executor)


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(CkaSettings)
@trust_option
@jobs_option
@click.option(
    "--memory-gib",
    type=FiniteRange(min=0, min_open=True),
    default=2,
    show_default=True,
    help="Use this much memory for matrices; with more, each site is read fewer times.",
)
@page_options()
@debug_option
def cka(*, store: str, jobs: int | None, memory_gib: float, **options: Any) -> "Reply":
    """Compare sites of each run in STORE by linear CKA.

    CKA is 1 if the rows of two sites are equal up to a rotation and a scale. Unrelated rows have
    about d / (tokens + d). Neighbouring sites are compared; with --sites, neighbours among the
    chosen sites. The table `cka` of the database holds the numbers. Each site is read once if the
    d x d matrices of all pairs fit into --memory-gib, and several times if they do not.

    \b
        lpp-analyze cka ./lpp
        lpp-analyze cka ./lpp 'smol*' --prefix 50 --skip-first 4
        lpp-analyze cka ./lpp --sites embed,final --all-pairs --format csv
    """
    from lpp.analyze.studies.answers import cka_answer

    settings, memory = taken(CkaSettings, options), int(memory_gib * (1 << 30))
    with progress("CKA", 0, "pairs of sites") as bar:
        return cka_answer(store, settings, jobs, memory, bar)
