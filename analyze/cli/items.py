"""`lpp-analyze items`: what tells right answers of an evaluation from wrong ones."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import fresh_option, page_options
from lpp.analyze.questions import ItemsSettings
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import run_argument, taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@run_argument
@click.option("--task", metavar="NAME", help="Analyse the items of this task. Required.")
@click.option(
    "--against",
    "base",
    shell_complete=complete_runs,
    metavar="BASE",
    help="Show which items flip from the run BASE to RUN, and what distinguishes them before the "
    "answer.",
)
@with_options(ItemsSettings)
@page_options()
@fresh_option
@debug_option
def items(
    *, store: str, task: str | None, run: str | None, base: str | None, **options: Any
) -> "Reply":
    """Show what separates right items of a task from wrong ones.

    The task must have been evaluated with `lpp-capture eval`, or its items joined with `lpp-analyze
    benchmarks add --items`. RUN is needed if several runs answered the task. A feature is a number
    of an item, such as the entropy before the answer. Each feature has an AUROC, the probability
    that a right item has a larger value than a wrong one, with an interval. Beside it are the AUROC
    within groups, the AUROC without the effect of the answer's length and ln p, the AUROC with
    shuffled labels, and q over all features. Then come calibration, and risk against coverage. If
    the run keeps rows, norm, distance to the mean (fitted out of fold) and participation ratio are
    features at each depth.

    Items of one passage, scene or document share luck. Where the task declares which belong
    together, or --cluster names a field, errors, p, shuffles and folds are by cluster.

    Fewer than 50 items, or fewer than 10 right or wrong ones, are not ranked. The database of STORE
    holds the analysis (tables item_analyses, item_features, item_reliability, item_risk), and
    `lpp-analyze report` shows it.

    -o items.html writes a page with charts and the ten most confident mistakes; -o depth.svg or
    .png writes the chart of AUROC by depth.

    With --against BASE, the output is the items that only one of two runs answers right, and the
    difference of the accuracies. For the items that BASE answers right, it shows what distinguishes
    those that RUN answers wrong: features of BASE, and how far the runs are apart before the
    answer. STORE::RUN is a run of another store.

    \b
        lpp-analyze items ./lpp --task arc_easy
        lpp-analyze items ./lpp smol --task arc_easy --sites final,'block.*'
        lpp-analyze items ./lpp --task arc_easy --sites final --skip-first 1
        lpp-analyze items ./lpp --task arc_easy -o items.html
        lpp-analyze items ./lpp int4 --task arc_easy --against base
    """
    from lpp.analyze.evaluations.answers import flips_answer, items_answer

    settings = taken(ItemsSettings, options)
    task = task or ""  # refused, with the tasks that there are
    with progress("Items", 0, "steps") as bar:
        if base is None:
            return items_answer(store, task, run, settings, progress=bar)
        if run is None:
            raise click.UsageError(f"--against {base}: name the RUN that is compared with it.")
        return flips_answer(store, task, base, run, settings, progress=bar)
