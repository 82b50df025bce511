"""`lpp-analyze correlate`: profiles beside benchmarks, with everything that doubts them."""

from pathlib import Path
from typing import Any

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.analyze.questions import CorrelateSettings
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options


@click.command(cls=LppCommand)
@click.argument("store")
@with_options(CorrelateSettings)
@page_options()
@debug_option
def correlate(
    *, store: str, form: str | None, output: Path | None, everything: bool, **options: Any
) -> None:
    """Correlate profiles with benchmark scores across models.

    Prints Pearson, Spearman, and partial Spearman with model size held constant. Each has the
    number of models, a bootstrap interval, p, and q: p after the correction of Benjamini and
    Hochberg over all tests of one source and method. Sources are never mixed. With fewer than five
    models nothing is ranked.

    All profiles have one context and one number of prompts; --context and --prompts choose them. If
    models were captured on several corpora, --corpus chooses one. Models that are left out are
    printed with the reason, which the table `correlations` also holds.

    \b
        lpp-analyze correlate ./lpp
        lpp-analyze correlate ./lpp --source lm-eval --benchmark 'leaderboard_bbh'
        lpp-analyze correlate ./lpp --corpus pydoc --context 100
        lpp-analyze correlate ./lpp --with-published --source published
    """
    from lpp.analyze.runs.keys import views
    from lpp.analyze.runs.named import names_of
    from lpp.analyze.scores.correlations import correlate, refuse_unranked
    from lpp.analyze.studies.correlations_page import correlations_page
    from lpp.analyze.tables.database import refresh_database
    from lpp.store import open_store

    check_page(form, output)
    found = correlate(store, taken(CorrelateSettings, options))
    kept = in_database(
        "The correlations are", lambda: refresh_database(open_store(store).path, found)
    )
    page = correlations_page(store, found, names_of(views(store)))
    show(page, form, output, everything=everything, stored=bool(kept))
    refuse_unranked(found)
