"""`lpp-capture probe`: short for `lpp-capture eval` with the two synthetic probes as its tasks."""

from collections.abc import Mapping
from typing import Any, Final

import click

from lpp.capture.cli.evaluate import eval_request, of_run
from lpp.capture.cli.options import STORE, evaluated_model
from lpp.capture.cli.scores_table import show_scores
from lpp.capture.models.machine import require
from lpp.capture.probes.items import GROUPS, ITEM_SEED, SHOTS
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.progress import SHOWN

VLLM_CONTEXT: Final = 2048
"""Tokens that vLLM makes room for, by default: the longest prompt of the probes has some 1,400."""


@click.command("probe", cls=LppCommand, params=of_run(sites="final"))
@evaluated_model
@click.option("--store", required=True, type=STORE, help="Write runs and scores into this store.")
@click.option(
    "--backend",
    type=click.Choice(["torch", "vllm"]),
    default="torch",
    show_default=True,
    help="Run the model in transformers (torch) or in vLLM.",
)
@click.option(
    "--probe",
    "probes",
    type=click.Choice(["ar", "spc"]),
    multiple=True,
    help="Run only this probe: ambiguous reasoning (ar) or symbolic patterns (spc).",
)
@click.option(
    "--shots",
    default=SHOTS,
    show_default=True,
    type=click.IntRange(0, SHOTS),
    help="Put this many solved items before each question.",
)
@click.option(
    "--limit", type=click.IntRange(1), help="Ask only the first N items of each task.", metavar="N"
)
@click.option(
    "--item-seed",
    default=ITEM_SEED,
    show_default=True,
    help="Draw the items from this seed; 0 gives the standard set.",
)
@click.option(
    "--chat", is_flag=True, help="Apply the model's chat template, with the shots as turns."
)
@click.option(
    "--context",
    type=click.IntRange(2),
    metavar="C",
    help="Refuse prompts longer than C tokens. Default: as many as the model has positions; "
    f"{VLLM_CONTEXT} in vLLM.",
)
@click.option(
    "--replace", is_flag=True, help="Replace the scores that the store has of this model."
)
@debug_option
def probe(**options: Any) -> None:
    """Run the two synthetic probes on a model.

    It is short for eval --tasks lpp_ar,lpp_spc.

    \b
    Examples:
      lpp-capture probe --model Qwen/Qwen2.5-0.5B-Instruct --store ./lpp
      lpp-capture probe --model ./my-model --backend vllm --store ./lpp
      lpp-capture probe --model ./my-model --probe spc --limit 20 --store ./lpp

    Ambiguous reasoning (lpp_ar, 160 items) and symbolic pattern completion
    (lpp_spc, 100 items). The scores become rows of the table `benchmarks`, the
    items rows of the view `items`, and each task is a captured run.
    """
    require("torch", "transformers", "safetensors", "lm_eval", extra="probes")
    from lpp.capture.evaluation.evaluate import evaluate_into

    probes = dict.fromkeys(options["probes"]) or GROUPS
    request = eval_request(_with_context(options), tuple(GROUPS[name] for name in probes))
    done = evaluate_into(
        options["store"], request, replace_scores=options["replace"], display=SHOWN
    )
    show_scores(done, options["store"])


def _with_context(options: Mapping[str, Any]) -> dict[str, Any]:
    unsaid = options["context"] is None and options["backend"] == "vllm"
    return {**options, "context": VLLM_CONTEXT} if unsaid else dict(options)
