"""`lpp-analyze benchmarks` and `correlate`: scores into a store, and profiles beside them."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.analyze.cli.options import page_options, trust_option
from lpp.analyze.questions import CorrelateSettings, ScoreSettings
from lpp.store.terminal.console import LppCommand, LppGroup, debug_option
from lpp.store.terminal.escaping import escape
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


_SHOWN: Final = 8


@click.group(cls=LppGroup)
def benchmarks() -> None:
    """Put benchmark scores beside the profiles.

    \b
        lpp-analyze benchmarks add ./lpp results/
        lpp-analyze benchmarks list ./lpp
        lpp-analyze benchmarks remove ./lpp lm-eval
    """


@benchmarks.command()
@click.argument("store")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_options(ScoreSettings)
@debug_option
def add(*, store: str, files: tuple[Path, ...], **options: Any) -> None:
    """Read FILES as one source of scores and keep them in STORE.

    FILES are one of these: results_*.json of lm-eval, logs of inspect (.eval, .json), or folders of
    either; an Open LLM Leaderboard export (csv or parquet); or a table of your own. A table has the
    columns `model` and one for each benchmark, or `model`, `benchmark`, `metric`, `value` and, if
    known, `stderr` and `n`. Add two leaderboards one by one: their scores of one benchmark differ
    and are never mixed.

    A score belongs to the run of its model. A run is found by the model's exact id, or else without
    regard to case, organisation and .gguf. A name that fits no run, or several, is printed; add
    --match NAME=RUN for it.

    --unit auto refuses a benchmark that holds both percentages and fractions; the other values say
    which unit it has (`other`: neither).

    --items needs an lm_eval run with --log_samples (samples_*.jsonl), or a log of inspect. The view
    `items` of lpp-sql then has every item. An item is joined to a captured prompt of the same model
    if context and answer are the same.

    \b
        lpp-analyze benchmarks add ./lpp results/
        lpp-analyze benchmarks add ./lpp results/ --items
        lpp-analyze benchmarks add ./lpp logs/ --items --group subject
        lpp-analyze benchmarks add ./lpp contents.parquet --model 'Qwen/*'
        lpp-analyze benchmarks add ./lpp mine.csv --match tiny=tiny-1a2b3c4d
    """
    from lpp.analyze.scores.scores import add_benchmarks
    from lpp.analyze.tables.database import refresh_database
    from lpp.store import open_store

    added = add_benchmarks(store, files, taken(ScoreSettings, options))
    n_models, n_benchmarks = (len(added.table[name].unique()) for name in ("model", "benchmark"))
    verb = "are in" if added.written else "were in"
    click.echo(
        f"{added.source}: {added.table.num_rows} scores of {n_models} models on "
        f"{n_benchmarks} benchmarks {verb} {store}."
    )
    _tell("missing", added.missing)
    unmatched = {name: fit for name, fit in added.fits.items() if fit.run is None}
    _tell("no run", [f"{name}: {fit.note}" for name, fit in unmatched.items()])
    _tell("another size", added.doubts)
    click.echo(f"{len(added.fits) - len(unmatched)} of {len(added.fits)} models have a run.")
    if unmatched:
        click.echo("--match NAME=RUN, with --replace, says which run a name means.", err=True)
    for task in added.items:
        on = f"prompts of {task.run}" if task.run else "no run: none has their texts"
        n_joined = f"{task.n_joined} of {len(task.table)} items"
        click.echo(escape(f"{task.model}, {task.task}: {n_joined} joined to {on}", keep=""))
        if task.note:
            click.echo(escape(f"{task.task}: {task.note}", keep=""), err=True)
    if any(task.run is None for task in added.items):
        click.echo(
            "Capture the texts of the log with lpp-capture run, with --keep-texts where the "
            "tokenizer has no token for some character.",
            err=True,
        )
    if added.written and refresh_database(open_store(store).path):
        click.echo(f"Next: lpp-analyze correlate {shlex.quote(store)}")


@benchmarks.command(name="list")
@click.argument("store")
@debug_option
def list_(store: str) -> None:
    """Show the sources of scores in STORE.

    Each source has its benchmarks, and which of its models have a run.

    \b
        lpp-analyze benchmarks list ./lpp
    """
    from lpp.analyze.scores.scores import summary
    from lpp.store.root import find_store
    from lpp.store.scores.lost import lost_source_lines

    lines, lost = summary(store), lost_source_lines(find_store(store))
    for line in lost:
        click.echo(escape(line, keep=""), err=True)
    if not lines and not lost:
        click.echo(f"No scores yet. Add some: lpp-analyze benchmarks add {shlex.quote(store)} FILE")
    for line in lines:
        click.echo(escape(line, keep=""))


@benchmarks.command()
@click.argument("store")
@click.argument("sources", nargs=-1, required=True)
@debug_option
def remove(store: str, sources: tuple[str, ...]) -> None:
    """Remove SOURCES from STORE: their scores and files.

    \b
        lpp-analyze benchmarks remove ./lpp lm-eval
    """
    from lpp.analyze.tables.database import refresh_database
    from lpp.store import open_store, remove_scores

    root = open_store(store).path
    for source in sources:
        remove_scores(root, source)
        click.echo(f"{escape(source, keep='')} is removed.")
    refresh_database(root)


def _tell(what: str, lines: Iterable[str]) -> None:
    """Print the first lines on stderr, and how many more there are."""
    all_lines = list(lines)
    for line in all_lines[:_SHOWN]:
        click.echo(f"{what}: {escape(line, keep='')}", err=True)
    if len(all_lines) > _SHOWN:
        click.echo(f"{what}: and {len(all_lines) - _SHOWN} more", err=True)


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
