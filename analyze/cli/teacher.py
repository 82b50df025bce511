"""`lpp-analyze teacher`: what the k most likely tokens leave out, and what they cost."""

from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.show import page_options
from lpp.analyze.questions import TeacherSettings
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@click.argument("run", required=False, shell_complete=complete_runs)
@with_options(TeacherSettings)
@page_options()
@debug_option
def teacher(*, store: str, run: str | None, **options: Any) -> "Reply":
    """Show what targets of RUN leave out and cost.

    The numbers say how many targets a student needs. For each k: the probability that the k most
    likely tokens leave out, mean and 95th percentile over tokens; the bias, KL(q || p) = -ln of the
    probability kept, where p is the teacher and q is p over these tokens, divided by its sum; and
    the bytes of a token that `lpp-analyze export` writes. For samples: no bias, but noise, the
    standard deviation of a token's loss where the student is the teacher. The last row is `final`,
    which gives all of it with the head.

    RUN needs rows of `final` and the head, and may be left out if STORE has one run.

    \b
        lpp-analyze teacher ./lpp
        lpp-analyze teacher ./lpp base --k 32,64,128 --prompts 1000
        lpp-analyze teacher ./lpp base --temperature 2 --format csv
    """
    from lpp.analyze.studies.answers import teacher_answer

    with progress("Teacher", 0, "tokens") as bar:
        return teacher_answer(store, run, taken(TeacherSettings, options), bar)
