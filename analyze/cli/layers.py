"""`lpp-analyze layers`: ranks through the depth of a model."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import executor_options
from lpp.analyze.cli.show import page_options
from lpp.analyze.questions import LayersSettings
from lpp.store.terminal.console import LppCommand, debug_option
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
    left out of the score and counted. Tables `layers` and `hourglass` of the database hold the
    numbers.

    The first few tokens of a prompt can be attention sinks: their states are a hundred times larger
    than all others, which alone makes ranks close to 1. If a run has sinks, its ranks are shown
    twice: over all positions, and without the sinks and the position after them. --skip-first
    chooses other positions; if 0 is among them, the curve without sinks is shown too.

    \b
        lpp-analyze layers ./lpp
        lpp-analyze layers ./lpp --context 50 --site 'block.*,final'
        lpp-analyze layers ./lpp --skip-first 1,4 --errors final
        lpp-analyze layers ./lpp --format csv
    """
    from lpp.analyze.studies.answers import layers_answer

    with progress("Layers", 0, "steps") as bar:
        return layers_answer(store, taken(LayersSettings, options), bar, executor)
