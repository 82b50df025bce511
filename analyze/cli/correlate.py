"""`lpp-analyze correlate`: profiles beside benchmarks, with everything that doubts them."""

from pathlib import Path

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import names, runs_option
from lpp.analyze.cli.show import check_page, page_options, show
from lpp.store.commands.console import debug_option


@click.command()
@click.argument("store")
@click.option(
    "--metric",
    "metrics",
    callback=names,
    metavar="NAME,...",
    help="Correlate only these profile columns, such as entropy_floor.",
)
@click.option(
    "--benchmark",
    "benchmarks",
    callback=names,
    metavar="NAME[:METRIC],...",
    default="*",
    help="Correlate with these benchmarks; a name may be a pattern. Default: every one.",
)
@click.option(
    "--source",
    "sources",
    callback=names,
    metavar="NAME,...",
    default="*",
    help="Use the scores of these sources; a name may be a pattern. Default: every one.",
)
@runs_option
@click.option(
    "--corpus",
    "corpora",
    callback=names,
    metavar="NAME,...",
    default="*",
    help="Use runs on these corpora; a name may be a pattern. Default: every one.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use profiles at this context. Default: the one that most runs have.",
)
@click.option(
    "--prompts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use profiles of the first N prompts. Default: the number that most runs have.",
)
@click.option(
    "--site", default="final", show_default=True, metavar="NAME", help="Use profiles at this site."
)
@click.option("--untrained", is_flag=True, help="Include untrained twins.")
@click.option(
    "--with-published", is_flag=True, help="Include the eight models that the paper published."
)
@click.option(
    "--seed", default=0, show_default=True, help="Draw the bootstrap samples from this seed."
)
@page_options()
@debug_option
def correlate(
    *,
    store: str,
    metrics: tuple[str, ...] | None,
    benchmarks: tuple[str, ...],
    sources: tuple[str, ...],
    runs: tuple[str, ...],
    corpora: tuple[str, ...],
    context: int | None,
    prompts: int | None,
    site: str,
    untrained: bool,
    with_published: bool,
    seed: int,
    form: str | None,
    output: Path | None,
    everything: bool,
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
    from lpp.analyze.runs.named import names_of, plans_of
    from lpp.analyze.scores.correlations import (
        DEFAULT_METRICS,
        Question,
        correlate,
        refuse_unranked,
    )
    from lpp.analyze.scores.subjects import Setting
    from lpp.analyze.studies.correlations_page import correlations_page
    from lpp.analyze.tables.database import refresh_database
    from lpp.store import open_store
    from lpp.store.format.find_runs import runs_fitting

    check_page(form, output)
    captured = views(store)
    plans = plans_of(captured)
    question = Question(
        metrics=metrics or DEFAULT_METRICS,
        benchmarks=benchmarks,
        sources=sources,
        runs=[run for given in runs for run in runs_fitting(given, plans) or [given]],
        corpora=corpora,
        setting=Setting(site=site, context=context, n_prompts=prompts),
        untrained=untrained,
        with_published=with_published,
        seed=seed,
    )
    found = correlate(store, question)
    kept = in_database(
        "The correlations are", lambda: refresh_database(open_store(store).path, found)
    )
    page = correlations_page(store, found, names_of(captured))
    show(page, form, output, everything=everything, stored=bool(kept))
    refuse_unranked(found)
