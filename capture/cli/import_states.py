"""`lpp-capture import`: hidden states that another project stored become a run."""

import warnings
from pathlib import Path

import click

from lpp.capture.cli.options import STORE
from lpp.store.exchange.projects import PROJECTS
from lpp.store.objects.place import Place
from lpp.store.settings.values import Numbers
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import callback_of
from lpp.store.terminal.progress import progress
from lpp.store.units import counted


@click.command("import", cls=LppCommand)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "source",
    required=True,
    type=click.Choice([*PROJECTS]),
    help="The project that wrote PATH.",
)
@click.option("--store", required=True, type=STORE, help="Write the run to this store.")
@click.option(
    "--model", metavar="NAME", help="The model that was run. Default: what the files say."
)
@click.option(
    "--layers",
    callback=callback_of(Numbers()),
    metavar="N,...",
    help="Layers in the order of the files, as the project counts them. Default: what the files "
    "say.",
)
@click.option(
    "--blocks",
    type=click.IntRange(1),
    metavar="N",
    help="Blocks of the model. Default: what the files say.",
)
@click.option(
    "--vocabulary",
    type=click.IntRange(1),
    metavar="N",
    help="Set samples aside that have a token id of N or more.",
)
@click.option("--repair", is_flag=True, help="Verify the run, and import damaged shards again.")
@debug_option
def import_command(
    *,
    path: Path,
    source: str,
    store: Place,
    model: str | None,
    layers: tuple[int, ...] | None,
    blocks: int | None,
    vocabulary: int | None,
    repair: bool,
) -> None:
    """Store hidden states, or log-probabilities, that another project wrote to PATH.

    No model is needed. States keep their bits, and are named as those of a capture: the manual says
    which layer of speculators is which site. The loss mask is kept by token. Log-probabilities of
    an engine become ln p(next) and the most likely token, which `lpp-analyze diff` compares. The
    same command resumes.

    \b
    Examples:
      lpp-capture import ./rows --from safetensors --store ./lpp
      lpp-capture import ./output --from speculators --store ./lpp \\
        --model Qwen/Qwen3-8B --layers 2,18,33,36
      lpp-capture import ./hidden_states --from vllm-connector --store ./lpp \\
        --model Qwen/Qwen3-8B --layers 2,18,33,36 --blocks 36
      lpp-capture import out.jsonl --from logprobs --store ./lpp --model served
    """
    from lpp.store.exchange.import_states import import_states

    with progress("Import", 0, "samples") as bar, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: bar.warn(str(message))
        run = import_states(
            path,
            source,
            store,
            model=model,
            layers=layers or None,
            n_blocks=blocks,
            vocabulary=vocabulary,
            repair=repair,
            progress=bar,
        )
    shards = counted(run.plan.n_shards, "shard")
    click.echo(f"{run.id}: {counted(run.plan.prompts.count, 'prompt')}, {shards}")
    click.echo(f"Sites: {', '.join(run.sites)}")
