"""`lpp-analyze sensitivity`: profiles over a grid of settings, and the order of models."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import executor_options
from lpp.analyze.cli.show import page_options
from lpp.analyze.questions import SensitivitySettings
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

PARTS = ("grid", "agreement")

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(SensitivitySettings)
@page_options()
@click.option(
    "--part",
    type=click.Choice(PARTS),
    help="Show this part only. Default: both; with csv, grid.",
)
@executor_options
@debug_option
def sensitivity(*, store: str, part: Any, executor: Any, **options: Any) -> "Reply":
    """Show how profiles change with context, prompts and site.

    Contexts are 50, 100, 200, 500, and numbers of prompts 10, 100, 500, 1000, as far as a run holds
    them, and the most that every run holds. --context and --prompts choose others. No model runs:
    every setting comes from the captured states, and the tokens that this saves are printed.

    With three models or more, rank agreement says whether two settings put the models in the same
    order. Tables `sensitivity` and `agreement` of the database hold every number, in every
    aggregation over prefixes.

    \b
        lpp-analyze sensitivity ./lpp
        lpp-analyze sensitivity ./lpp --context 50,200 --prompts 10,100
        lpp-analyze sensitivity ./lpp --site 'final,block.*' --format csv
        lpp-analyze sensitivity ./lpp --part agreement --format csv
    """
    from lpp.analyze.studies.answers import sensitivity_answer

    with progress("Spectra", 0, "sites") as bar:
        return sensitivity_answer(store, taken(SensitivitySettings, options), part, bar, executor)
