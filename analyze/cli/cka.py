"""`lpp-analyze cka`: how alike neighbouring sites are."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import jobs_option, trust_option
from lpp.analyze.cli.show import page_options
from lpp.analyze.questions import CkaSettings
from lpp.store.terminal.console import FiniteRange, LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


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
    about d / (tokens + d). Neighbouring sites are compared; with --site, neighbours among the
    chosen sites. The table `cka` of the database holds the numbers. Each site is read once if the
    d x d matrices of all pairs fit into --memory-gib, and several times if they do not.

    \b
        lpp-analyze cka ./lpp
        lpp-analyze cka ./lpp --run 'smol*' --prefix 50 --skip-first 4
        lpp-analyze cka ./lpp --site embed,block.15,final --all-pairs --format csv
    """
    from lpp.analyze.studies.answers import cka_answer

    settings, memory = taken(CkaSettings, options), int(memory_gib * (1 << 30))
    with progress("CKA", 0, "pairs of sites") as bar:
        return cka_answer(store, settings, jobs, memory, bar)
