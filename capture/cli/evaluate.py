"""`lpp-capture eval`: evaluate a model with lm-eval and capture what it computes meanwhile."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.capture.cli.options import STORE, evaluated_model, split_names
from lpp.capture.cli.scores_table import show_scores
from lpp.capture.models.machine import require
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.settings.setting import declared
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import options_of
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.evaluation.request import EvalRequest

OF_RUN: Final = (
    *("revision", "untrained-seed", "device", "dtype", "attention", "device-map"),
    *("tensor-parallel", "engine-option", "check-sites"),
    *("quantization", "trust-remote-code", "sites", "keep", "moments-dtype", "keep-head"),
    *("batch-tokens", "shard-mib"),
)
"""Options that are those of `lpp-capture run`."""


def of_run(*more: str, **defaults: str) -> list[click.Parameter]:
    """These options, and `more`. defaults: those that a command has otherwise, as texts."""
    options = options_of(CaptureSettings)
    for name, value in defaults.items():
        options[name].default = value
    return [options[name] for name in (*OF_RUN, *more)]


@click.command("eval", cls=LppCommand, params=of_run("keep-texts"))
@evaluated_model
@click.option(
    "--backend",
    type=click.Choice(["torch", "vllm"]),
    default="torch",
    show_default=True,
    help="Run the model in transformers (torch) or in vLLM, which needs --context.",
)
@click.option(
    "--tasks",
    required=True,
    callback=split_names,
    metavar="NAMES",
    help="Ask these tasks, separated by commas: tasks, groups or tags of lm-eval, YAML files, or "
    "folders of them.",
)
@click.option("--store", required=True, type=STORE, help="Write runs and scores into this store.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Ask only the first N items of each task."
)
@click.option(
    "--shots",
    type=click.IntRange(0),
    metavar="N",
    help="Put N solved items before each question. Default: as the task says.",
)
@click.option(
    "--chat", is_flag=True, help="Apply the model's chat template, with the shots as turns."
)
@click.option(
    "--context",
    type=click.IntRange(2),
    metavar="C",
    help="Cut the beginning of prompts longer than C tokens. Default: as many as the model has "
    "positions.",
)
@click.option(
    "--fields",
    default="",
    callback=split_names,
    metavar="NAMES",
    help="Keep these fields of each document with its prompts, such as subject,level.",
)
@click.option(
    "--group",
    metavar="FIELD",
    help="Group the items by this field of their documents, such as subject.",
)
@click.option(
    "--trust-task-code",
    is_flag=True,
    help="Let tasks of YAML files run the Python that they name, and read files outside their "
    "folder.",
)
@click.option(
    "--replace", is_flag=True, help="Replace the scores that the store has of this model."
)
@debug_option
def evaluate(**options: Any) -> None:
    """Evaluate a model with lm-eval; the passes that score are captured.

    \b
    Examples:
      lpp-capture eval --model Qwen/Qwen2.5-0.5B-Instruct --tasks arc_easy \\
          --limit 200 --store ./lpp
      lpp-capture eval --model ./my-model --tasks ./my_tasks --store ./lpp
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

    request = eval_request(options, options["tasks"])
    done = evaluate_into(
        options["store"], request, replace_scores=options["replace"], display=SHOWN
    )
    show_scores(done, options["store"])


def eval_request(options: Mapping[str, Any], tasks: tuple[str, ...]) -> "EvalRequest":
    """The request that parsed options make. options: those of `lpp-capture eval`; a command that
    lacks some takes their defaults.
    """
    from lpp.capture.evaluation.request import EvalRequest

    known = {one.keyword for one in declared(CaptureSettings).values()}
    given = {name: value for name, value in options.items() if name in known}
    del given["context"]  # of each task, its longest prompt
    asked = ("limit", "shots", "chat", "context", "group", "item_seed", "trust_task_code")
    return EvalRequest(
        capture=request_of(CaptureSettings(**given, corpus="lm-eval")),
        tasks=tasks,
        **{name: options[name] for name in asked if name in options},
    )
