"""`lpp-capture probe`: short for `lpp-capture eval` with the two synthetic probes as its tasks."""

from dataclasses import replace
from typing import Any

import click

from lpp.capture.cli.evaluate import eval_request, of_run
from lpp.capture.cli.options import STORE, evaluated_model
from lpp.capture.cli.scores_table import show_scores
from lpp.capture.evaluation.settings import VLLM_CONTEXT, ProbeSettings
from lpp.capture.models.machine import require
from lpp.capture.probes.items import GROUPS
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import SHOWN


@click.command("probe", cls=LppCommand, params=of_run(sites="final"))
@evaluated_model
@click.option("--store", required=True, type=STORE, help="Write runs and scores into this store.")
@with_options(ProbeSettings)
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

    settings = taken(ProbeSettings, options)
    if settings.context is None and settings.backend == "vllm":
        settings = replace(settings, context=VLLM_CONTEXT)
    probes = dict.fromkeys(settings.probes) or GROUPS
    request = eval_request(options, settings, tuple(GROUPS[name] for name in probes))
    done = evaluate_into(options["store"], request, replace_scores=settings.replace, display=SHOWN)
    show_scores(done, options["store"])
