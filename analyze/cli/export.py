"""`lpp-analyze export`: what a run holds, as files that trainers read."""

from pathlib import Path
from typing import Any

import click

from lpp.analyze.questions import TargetSettings
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

_TARGETS = ("topk", "sampled")


@click.command(cls=LppCommand)
@click.argument("store")
@click.argument("run", default="*", shell_complete=complete_runs)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="Write to this file, which may not exist yet, or into this folder.",
)
@click.option(
    "--targets",
    type=click.Choice(_TARGETS),
    help="Write the next tokens that the model expects, to a Parquet file.",
)
@with_options(TargetSettings)
@debug_option
def export(*, store: str, run: str, output: Path, targets: Any, **options: Any) -> None:
    """Write what RUN holds as files that trainers read.

    --targets needs rows of `final` and the head. A Parquet file has a row for each prompt:
    input_ids, target_token_ids and target_logprobs, lists of k ids and ln p for each token, and
    loss_mask if the run has one. Targets at position t are of the token at t + 1. ln p is over the
    whole vocabulary. `lpp-analyze teacher` says how much the k most likely tokens leave out;
    samples, each with weight 1/N, are unbiased.

    RUN may be left out if STORE has one run. Nothing is overwritten, and the file appears when it
    is complete.

    \b
        lpp-analyze export ./lpp --targets topk --k 64 -o targets.parquet
        lpp-analyze export ./lpp base --targets sampled --samples 32 -o s.parquet
    """
    from lpp.analyze.runs.named import run_named

    if targets is None:
        raise click.UsageError("say what to write: --targets topk or --targets sampled.")
    source = run_named(store, run).run
    _export_targets(source, output, targets, taken(TargetSettings, options))


def _export_targets(run: Any, output: Path, kind: Any, settings: TargetSettings) -> None:
    from lpp.analyze.exports.targets import export_targets

    if output.is_dir():
        output /= f"{run.id}-{kind}.parquet"
    with progress("Export", 0, "prompts") as bar:
        export_targets(run, output, kind, settings, progress=bar)
    click.echo(output)
