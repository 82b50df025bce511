"""`lpp-capture`: run a model once over a corpus and write the store."""

import click

from lpp.capture.cli.compare import compare
from lpp.capture.cli.demo import demo
from lpp.capture.cli.doctor import doctor
from lpp.capture.cli.evaluate import evaluate
from lpp.capture.cli.import_states import import_command
from lpp.capture.cli.label import label
from lpp.capture.cli.models import models
from lpp.capture.cli.repair import repair
from lpp.capture.cli.run import run
from lpp.capture.cli.status import status
from lpp.store.terminal.console import LppGroup, debug_option, version_option


@click.group(cls=LppGroup)
@version_option
@debug_option
def main() -> None:
    """Run a model once, store its activations, analyse them later without it.

    \b
    Activations and logit statistics go into a store, which `lpp-analyze` and
    `lpp-sql` read.
    """


for entry in (run, compare, status, repair, label, import_command, demo, evaluate, doctor, models):
    main.add_command(entry)

if __name__ == "__main__":
    main()
