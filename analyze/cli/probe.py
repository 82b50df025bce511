"""`lpp-analyze probe`: whether rows predict a label, and what else does."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.show import page_options
from lpp.analyze.questions import LabelProbeSettings
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@click.argument("run", required=False, shell_complete=complete_runs)
@click.option(
    "--label",
    required=True,
    metavar="FIELD[=VALUE]",
    help="Predict this field of the prompts: classes or numbers; or VALUE against all others. Also "
    "token.FIELD of tokens, and right of the items of --task.",
)
@with_options(LabelProbeSettings)
@page_options()
@debug_option
def probe(*, store: str, run: str | None, label: str, **options: Any) -> "Reply":
    """Fit linear probes of a label of prompts, beside controls.

    Prompts carry fields from their corpus (`lpp-capture run --fields`), or `lpp-capture label` adds
    them; --task takes evaluated items. A probe is ridge logistic regression, for a number ridge
    regression; of several classes each is told from the rest. Every score is of a probe that saw
    other folds alone; columns are standardised, and the strength is chosen, inside the fold.

    The same is done with controls: length, mean surprisal, counts of tokens, and the rows of embed.
    Each site has its gain over the best control, paired, with an interval, and q over all sites. If
    length, or another control, predicts the label as well, the first line says so. Labels are also
    shuffled, by cluster; the difference of means and random directions stand beside.

    --group keeps the prompts of one author or source in one fold. --cluster does too, and computes
    errors by cluster. The tables `probes`, `probe_scores` and `probe_reliability` of the database
    hold the numbers. The synthetic probes of `lpp-capture probe`, which ask the model questions,
    are something else.

    \b
        lpp-analyze probe ./lpp --label topic
        lpp-analyze probe ./lpp smol --label topic=news --rows mean --skip-first 2
        lpp-analyze probe ./lpp --label tone --cluster document --format csv
        lpp-analyze probe ./lpp --label token.entity --rows each
        lpp-analyze probe ./lpp --label right --task arc_easy
    """
    from lpp.analyze.probes.answer import probe_answer

    settings = taken(LabelProbeSettings, options)
    with progress("Probes", 0, "sites") as bar:
        return probe_answer(store, label, run, settings, progress=bar)
