"""`lpp-capture eval`: evaluate a model with lm-eval and capture what it computes meanwhile."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.capture.cli.options import STORE, evaluated_model
from lpp.capture.cli.scores_table import show_scores
from lpp.capture.evaluation.settings import EvalSettings
from lpp.capture.models.machine import require
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.settings.setting import declared
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import options_of, taken, with_options
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.evaluation.request import EvalRequest

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
    request = _eval_request(options, settings)
    done = evaluate_into(options["store"], request, replace_scores=settings.replace, display=SHOWN)
    show_scores(done, options["store"])


def _eval_request(options: Mapping[str, Any], settings: EvalSettings) -> "EvalRequest":
    """The request of a command. options: capture options, and others."""
    from lpp.capture.evaluation.request import EvalRequest

    of_capture = {setting.keyword for setting in declared(CaptureSettings).values()}
    given = {name: value for name, value in options.items() if name in of_capture}
    del given["context"]  # of each task, its longest prompt
    names = {field.name for field in dataclasses.fields(EvalRequest)} - {"capture"}
    return EvalRequest(
        capture=request_of(CaptureSettings(**given, corpus="lm-eval")),
        **{name: getattr(settings, name) for name in names},
    )
