"""`lpp-capture`: run a model once over a corpus and write the store."""

from pathlib import Path

import click

from lpp.capture.cli.probe import probe
from lpp.capture.cli.repair import repair
from lpp.capture.cli.run import run
from lpp.capture.cli.status import status
from lpp.capture.cli.store_type import STORE
from lpp.capture.models.machine import require
from lpp.store.commands.console import LppGroup, debug_option
from lpp.store.objects.place import Place


@click.group(cls=LppGroup, context_settings={"max_content_width": 80})
def main() -> None:
    """Run a model once over a corpus and store what it computes.

    \b
    Activations and logit statistics go into a store; `lpp-analyze` and
    `lpp-sql` answer from it, without the model.
    """


main.add_command(run)
main.add_command(status)
main.add_command(repair)


@main.command()
@click.option(
    "--store",
    default="demo",
    show_default=True,
    type=STORE,
    help="Directory to write.",
)
@debug_option
def demo(store: Place) -> None:
    """Capture a small packaged model and its untrained twin, and compare them.

    \b
    Example:
      lpp-capture demo --store ./demo

    SmolLM2-135M-Instruct and the same architecture with random weights read 100
    English passages of 200 tokens. About a minute on two cores; no download.
    """
    if not isinstance(store, Path):
        raise click.UsageError("--store: the demo writes a directory of this machine.")
    require("torch", "transformers", "safetensors")
    from lpp.capture.cli.demo import run_demo

    run_demo(store)


main.add_command(probe)

if __name__ == "__main__":
    main()
