"""`lpp-capture label`: add fields to the prompts of runs that are there already."""

import shlex
from functools import partial

import click

from lpp.capture.cli.options import STORE
from lpp.store.format.run_names import matching_runs, name_and_id
from lpp.store.objects.place import Place
from lpp.store.settings.values import Names
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import callback_of, runs_argument


@click.command(cls=LppCommand)
@click.argument("store", type=STORE)
@partial(runs_argument, required=True)
@click.option(
    "--from",
    "file",
    required=True,
    metavar="FILE",
    help="Take the fields from this .jsonl, .parquet or .csv file, or folder of such files.",
)
@click.option(
    "--fields",
    required=True,
    callback=callback_of(Names()),
    metavar="NAMES",
    help="Add these fields of each row, such as label,split.",
)
@click.option(
    "--text-field", metavar="NAME", help="The text is in this field or column. Default: text."
)
@debug_option
def label(
    store: Place, runs: tuple[str, ...], file: str, fields: tuple[str, ...], text_field: str | None
) -> None:
    """Add labels, or other fields, to the prompts of runs in STORE.

    \b
    Examples:
      lpp-capture label ./lpp my-model --from labelled.jsonl --fields label
      lpp-capture label ./lpp '*' --from reviews.csv --fields label,stars

    FILE holds the texts that the run read: a row belongs to a prompt by its
    place in the captured file, by the field id, or, with a row for each prompt,
    by order, whichever gives the same texts. Nothing is captured or computed
    again. A field that a run has already stays as it is; other values are
    refused.
    """
    from lpp.capture.corpus.fields import check_names
    from lpp.capture.corpus.label import label_runs
    from lpp.capture.corpus.open import open_corpus
    from lpp.store import open_store

    check_names(fields)
    opened = open_store(store)
    chosen = matching_runs(runs, opened.plans)
    corpus = open_corpus(file, text_field=text_field, fields=fields)
    for done in label_runs([opened.runs[run] for run in chosen], corpus):
        run = done.run.id
        what = f"added {', '.join(done.fields)}" if done.fields else "has these fields already"
        click.echo(f"{name_and_id(opened.names[run], run)}: {what}, by {done.matched_by}")
        for note in done.notes:
            click.echo(f"  {note}", err=True)
    where = shlex.quote(str(store))
    click.echo(f"Next: lpp-analyze profile {where} --cluster {shlex.quote(fields[0])}")
