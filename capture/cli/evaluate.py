"""`lpp-capture eval`: evaluate a model with lm-eval and capture what it computes meanwhile."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.capture.cli.options import STORE, evaluated_model
from lpp.capture.evaluation.request import EvalRequest, EvalSettings
from lpp.capture.models.machine import require
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.objects.place import Url
from lpp.store.settings.setting import declared
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import options_of, taken, with_options
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.evaluation.evaluate import Evaluated
    from lpp.capture.evaluation.scores import EvalScore

OF_RUN: Final = (
    *("revision", "untrained-seed", "device", "dtype", "attention", "device-map"),
    *("tensor-parallel", "engine-option", "check-sites"),
    *("quantization", "trust-remote-code", "sites", "stored-dtype"),
    *("keep-head", "batch-tokens", "shard-mib", "keep-texts"),
)
"""Options that are those of `lpp-capture run`."""


@click.command("eval", cls=LppCommand, params=[options_of(CaptureSettings)[n] for n in OF_RUN])
@evaluated_model
@click.option("--store", required=True, type=STORE, help="Write runs and scores into this store.")
@with_options(EvalSettings)
@debug_option
def evaluate(**options: Any) -> None:
    """Evaluate a model with lm-eval; the passes that score are captured.

    \b
    Examples:
      lpp-capture eval --model Qwen/Qwen2.5-0.5B-Instruct --tasks arc_easy \\
          --limit 200 --store ./lpp
      lpp-capture eval --model ./my-model --tasks ./my_tasks --store ./lpp
      lpp-capture eval --model ./my-model --tasks lpp_ar,lpp_spc --sites final \\
          --store ./lpp
      lpp-capture eval --model ./my-model --tasks mmlu --shots 5 --group subject \\
          --fields subject --sites final,'block.*' --store ./lpp

    Each task becomes a run, whose prompts are the requests of lm-eval: question
    and answer, one for each answer. Scores are lm-eval's own and become rows of
    the table `benchmarks`; right and wrong items are in the view `items`. The
    same command resumes, and repeats no pass that is committed. Tasks that need
    no download: pydoc_cloze, lpp_ar, lpp_spc.
    """
    require("torch", "transformers", "safetensors", "lm_eval", extra="probes")
    from lpp.capture.evaluation.evaluate import evaluate_into

    settings = taken(EvalSettings, options)
    if not settings.tasks:
        raise click.UsageError("Missing option '--tasks'.")
    of_capture = {setting.keyword for setting in declared(CaptureSettings).values()}
    given = {name: value for name, value in options.items() if name in of_capture}
    del given["context"]  # of each task, its longest prompt
    capture = request_of(CaptureSettings(**given, corpus="lm-eval"))
    request = EvalRequest(capture=capture, **vars(settings))
    show_scores(evaluate_into(options["store"], request, display=SHOWN), options["store"])


def show_scores(done: "Evaluated", store: Url) -> None:
    """Print the scores, the run of each task, and what to do next."""
    click.echo(f"{done.model}\n")
    for line in score_lines([score for result in done.results for score in result.scores]):
        click.echo(line)
    click.echo()
    for result in done.results:
        if result.run is not None:
            click.echo(f"{result.task}: run {result.run}")
    if done.unchanged:
        click.echo(f"The store had these scores already: {', '.join(done.unchanged)}")
    following = ["lpp-analyze", "profile", str(store)]
    if of_runs := [result for result in done.results if result.run is not None]:
        task, run = of_runs[0].task, str(of_runs[0].run)
        following = ["lpp-analyze", "items", str(store), run, "--task", task]
    click.echo(f"Next: {shlex.join(following)}")


def score_lines(scores: Sequence["EvalScore"]) -> list[str]:
    """A head and a line for each score; as wide as the names need."""
    rows = [("task", "metric", "score", "stderr", "95 %", "n"), *map(_row, scores)]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(6)]
    return [
        "".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _row(score: "EvalScore") -> tuple[str, str, str, str, str, str]:
    return (
        score.task,
        score.metric.removesuffix(",none"),
        f"{score.value:.5g}",
        "-" if score.stderr is None else f"{score.stderr:.3g}",
        "-" if score.interval is None else "{:.3g} to {:.3g}".format(*score.interval),
        "-" if score.n is None else str(score.n),
    )
