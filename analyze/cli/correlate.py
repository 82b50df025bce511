"""`lpp-analyze correlate`: profiles beside benchmarks."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import trust_option
from lpp.analyze.cli.show import page_options
from lpp.analyze.questions import CorrelateSettings
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(CorrelateSettings)
@trust_option
@page_options()
@debug_option
def correlate(*, store: str, **options: Any) -> "Reply":
    """Correlate profiles with benchmark scores across models.

    Prints Pearson, Spearman, and partial Spearman with model size held constant. Each has the
    number of models, an interval, p, and q: p after the correction of Benjamini and
    Hochberg over all tests of one source and method. Sources are never mixed. With fewer than five
    models nothing is ranked.

    All profiles have one context and one number of prompts; --context and --prompts choose them. If
    models were captured on several corpora, --corpus chooses one. `lpp-analyze benchmarks list`
    shows which run each name of a score fits.

    \b
        lpp-analyze correlate ./lpp
        lpp-analyze correlate ./lpp --source lm-eval --benchmark 'leaderboard_bbh'
        lpp-analyze correlate ./lpp --corpus pydoc --context 100
    """
    from lpp.analyze.studies.answers import correlations_answer

    with progress("Correlations", 0, "tests") as bar:
        return correlations_answer(store, taken(CorrelateSettings, options), bar)
