"""`lpp-analyze items`: what tells right answers of an evaluation from wrong ones."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import fresh_option, output_options, sites_option
from lpp.store.commands.completion import complete_runs
from lpp.store.commands.console import debug_option
from lpp.store.commands.output import chosen_format, suffix_of
from lpp.store.commands.progress import progress
from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from lpp.analyze.evaluations.analysis import ItemAnalysis
    from lpp.analyze.evaluations.evaluated import EvaluatedItems

FORMATS = ("text", "json", "md", "html")
PICTURES = ("svg", "png")


@click.command()
@click.argument("store")
@click.option("--task", required=True, metavar="NAME", help="Analyse the items of this task.")
@click.option(
    "--run",
    shell_complete=complete_runs,
    metavar="NAME",
    help="Analyse the items of this run. Needed if several runs answered the task.",
)
@click.option(
    "--against",
    "base",
    shell_complete=complete_runs,
    metavar="BASE",
    help="Show which items flip from the run BASE to --run, and what distinguishes them before "
    "the answer.",
)
@click.option(
    "--source",
    metavar="NAME",
    help="Use the scores of this source. Needed if the run has several sources.",
)
@click.option(
    "--filter",
    metavar="NAME",
    help="Use this filter of lm-eval. Needed if the task has several filters.",
)
@click.option(
    "--cluster",
    metavar="FIELD",
    help="Items with equal values of this field of their documents are not independent. Default: "
    "what the task declares.",
)
@sites_option()
@click.option(
    "--skip-first",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Leave out the first N tokens of each question, often attention sinks.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Draw folds, shuffled labels and resamples from this seed.",
)
@output_options(*FORMATS)
@fresh_option
@debug_option
def items(
    *,
    store: str,
    task: str,
    run: str | None,
    base: str | None,
    source: str | None,
    filter: str | None,  # noqa: A002
    cluster: str | None,
    sites: tuple[str, ...],
    skip_first: int,
    seed: int,
    form: str | None,
    output: Path | None,
) -> None:
    """Show what separates right items of a task from wrong ones.

    The task must have been evaluated with `lpp-capture eval`, or its items joined with `lpp-analyze
    benchmarks add --items`. A feature is a number of an item, such as the entropy before the
    answer. Each feature has an AUROC, the probability that a right item has a larger value than a
    wrong one, with an interval. Beside it are the AUROC within groups, the AUROC without the effect
    of the answer's length and ln p, the AUROC with shuffled labels, and q over all features. Then
    come calibration, and risk against coverage. If the run keeps rows, norm, distance to the mean
    (fitted out of fold) and participation ratio are features at each depth.

    Items of one passage, scene or document share luck. Where the task declares which belong
    together, or --cluster names a field, errors, p, shuffles and folds are by cluster.

    Fewer than 50 items, or fewer than 10 right or wrong ones, are not ranked. The database of STORE
    holds the analysis (tables item_analyses, item_features, item_reliability, item_risk), and
    `lpp-analyze report` shows it.

    -o items.html writes a page with charts and the ten most confident mistakes; -o depth.svg or
    .png writes the chart of AUROC by depth.

    With --against BASE, the output is the items that only one of two runs answers right, and the
    difference of the accuracies. For the items that BASE answers right, it shows what distinguishes
    those that --run answers wrong: features of BASE, and how far the runs are apart before the
    answer. STORE::RUN is a run of another store.

    \b
        lpp-analyze items ./lpp --task arc_easy
        lpp-analyze items ./lpp --task arc_easy --run smol --sites final,'block.*'
        lpp-analyze items ./lpp --task arc_easy --sites final --skip-first 1
        lpp-analyze items ./lpp --task arc_easy -o items.html
        lpp-analyze items ./lpp --task arc_easy --run int4 --against base
    """
    if base is not None:
        chosen = {"source": source, "filter": filter, "cluster": cluster}
        settings = {"sites": sites, "skip_first": skip_first, "seed": seed}
        _of_two_runs(store, task, base, run, chosen | settings, form=form, output=output)
        return
    from lpp.analyze.evaluations.analysis import analysis, kept_sites
    from lpp.analyze.evaluations.evaluated import evaluated_items
    from lpp.analyze.evaluations.tables import write_items
    from lpp.analyze.pages.output import check_output

    picture = suffix_of(output) in PICTURES
    form = chosen_format(form, output, FORMATS, PICTURES)
    if picture or form == "html":
        import_module("lpp.analyze.charts.library")  # now, not after a minute, says what is missing
    if output is not None:
        check_output(output)
    some = evaluated_items(store, task, run=run, source=source, filter=filter, cluster=cluster)
    held = kept_sites(some, sites)
    if picture and not held:
        raise InputError(
            f"{output}: run {some.view.run.id} keeps moments of its rows and not the rows, "
            "so no feature has a depth. Evaluate again with --keep rows, or write -o items.html.",
            kind=ErrorKind.INCOMPLETE,
        )
    with progress("Items", 1 + len(held), "steps") as bar:
        found = analysis(some, sites=sites, skip_first=skip_first, seed=seed, progress=bar)
    in_database("The analysis is", lambda: write_items(store, found))
    if picture and output is not None:
        from lpp.analyze.charts.export import save_chart
        from lpp.analyze.charts.items import item_depth_chart
        from lpp.analyze.evaluations.tables import item_tables

        save_chart(item_depth_chart(item_tables(found)["item_features"]), output)
    else:
        _write(store, some, found, form, output)
    if output is not None:
        click.echo(output)


def _of_two_runs(
    store: str,
    task: str,
    base: str,
    run: str | None,
    options: Mapping[str, Any],
    *,
    form: str | None,
    output: Path | None,
) -> None:
    """What tells the items that flip from `base` to `run`; options: of `flipped_items`."""
    from lpp.analyze.evaluations.flip_analysis import flip_analysis, n_steps
    from lpp.analyze.evaluations.flips import flips
    from lpp.analyze.pages.output import check_output
    from lpp.analyze.text.flips import FORMATS as TEXTS
    from lpp.sql.results.output import text_output

    if run is None:
        raise click.UsageError(f"--against {base}: name the run that is compared with it, --run.")
    if form not in (None, *TEXTS) or suffix_of(output) in ("html", *PICTURES):
        raise click.UsageError(f"--against: choose --format {', '.join(TEXTS)}; there is no page.")
    form = chosen_format(form, output, [*TEXTS])
    if output is not None:
        check_output(output)
    settings = dict(options)
    chosen = {name: settings.pop(name) for name in ("source", "filter", "cluster")}
    found = flips(store, task, base, run, **chosen)
    with progress("Items", n_steps(found, settings["sites"]), "steps") as bar:
        analysed = flip_analysis(found, **settings, progress=bar)
    with text_output(output) as stream:
        stream.write(TEXTS[form](analysed))
    if output is not None:
        click.echo(output)


def _write(
    store: str, some: "EvaluatedItems", found: "ItemAnalysis", form: str, output: Path | None
) -> None:
    """To standard output, or to a file."""
    from lpp.analyze.text.items import FORMATS as TEXTS
    from lpp.sql.results.output import text_output

    if form == "html":
        from lpp.analyze.report.items_page import items_page

        shown = items_page(store, some, found)
    elif form == "md":
        from lpp.analyze.report.items_page import items_markdown

        shown = items_markdown(some, found)
    else:
        shown = TEXTS[form](found)
    with text_output(output) as stream:
        stream.write(shown)
