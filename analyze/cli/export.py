"""`lpp-analyze export`: what a run holds, as files that trainers read."""

from pathlib import Path
from typing import Any

import click

from lpp.analyze.questions import TargetSettings
from lpp.store.exchange.projects import EXPORTED
from lpp.store.settings.values import Names
from lpp.store.terminal.completion import complete_sites
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import callback_of, run_argument, taken, with_options
from lpp.store.terminal.progress import progress
from lpp.store.units import counted

_TARGETS = ("topk", "sampled")


@click.command(cls=LppCommand)
@click.argument("store")
@run_argument
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
@click.option(
    "--to",
    type=click.Choice(EXPORTED),
    help="Write hidden states, as this project stores them, to a new folder.",
)
@click.option(
    "--sites",
    callback=callback_of(Names()),
    shell_complete=complete_sites,
    metavar="NAME,...",
    help="With --to: these sites, in this order. Default: every one that the project has.",
)
@click.option(
    "--only-prompts",
    is_flag=True,
    help="With --to speculators: no states, for training that reads them from the store.",
)
@with_options(TargetSettings)
@debug_option
def export(
    *,
    store: str,
    run: str,
    output: Path,
    targets: Any,
    to: str | None,
    sites: tuple[str, ...] | None,
    only_prompts: bool,
    **options: Any,
) -> None:
    """Write what RUN holds as files that trainers read.

    --to writes token ids, loss mask and states bit for bit, as the project names them; the manual
    has a table. What was interrupted goes on.

    --targets needs rows of `final` and the head. A Parquet file has a row for each prompt:
    input_ids, target_token_ids and target_logprobs, lists of k ids and ln p for each token, and
    loss_mask if the run has one. Targets at position t are of the token at t + 1. ln p is over the
    whole vocabulary. What the k most likely tokens leave out biases a student; samples, each with
    weight 1/N, are unbiased.

    RUN may be left out if STORE has one run. Nothing is overwritten, and the output appears when it
    is complete.

    \b
        lpp-analyze export ./lpp --targets topk --k 64 -o targets.parquet
        lpp-analyze export ./lpp base --targets sampled --samples 32 -o s.parquet
        lpp-analyze export ./lpp base --to parquet --sites block.15,final -o rows
        lpp-analyze export ./lpp base --to speculators --only-prompts -o ./data
    """
    from lpp.analyze.runs.named import run_named

    if (targets is None) == (to is None):
        raise click.UsageError("say what to write: --targets topk or sampled, or --to PROJECT.")
    source = run_named(store, run).run
    if to is not None:
        _export_states(source, output, to, sites, only_prompts=only_prompts)
        return
    _export_targets(source, output, targets, taken(TargetSettings, options))


def _export_targets(run: Any, output: Path, kind: Any, settings: TargetSettings) -> None:
    from lpp.analyze.exports.targets import export_targets

    if output.is_dir():
        output /= f"{run.id}-{kind}.parquet"
    with progress("Export", 0, "prompts") as bar:
        export_targets(run, output, kind, settings, progress=bar)
    click.echo(output)


def _export_states(
    run: Any, output: Path, to: str, sites: tuple[str, ...] | None, *, only_prompts: bool
) -> None:
    from lpp.store.exchange.export import export as export_states

    with progress("Export", 0, "parts") as bar:
        chosen = export_states(
            run, to, output, sites=sites or None, only_prompts=only_prompts, progress=bar
        )
    click.echo(f"{output}: {counted(len(chosen.prompt_ids), 'prompt')}")
    ids = chosen.layers or chosen.sites
    if not only_prompts:
        named = (f"{k} is {site}" for k, site in zip(ids, chosen.sites, strict=False))
        last = [f"the last state is {chosen.sites[-1]}"] if len(ids) < len(chosen.sites) else []
        click.echo("; ".join([*named, *last]) if chosen.layers else ", ".join(chosen.sites))
