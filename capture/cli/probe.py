"""`lpp-capture probe`: run the two synthetic probes on a model and store its scores."""

import shlex
from typing import TYPE_CHECKING, Any

import click

from lpp.capture.models.machine import require
from lpp.capture.plan.options import STORE
from lpp.store.commands.console import debug_option

if TYPE_CHECKING:
    from lpp.capture.probes.model import ProbeRequest
    from lpp.capture.probes.probe import Probed
    from lpp.capture.probes.scoring import ProbeScore


@click.command()
@click.option("--model", required=True, help="Hub id, local folder, or GGUF file.")
@click.option("--revision", help="Revision of a hub model: branch, tag or commit.")
@click.option("--store", required=True, type=STORE, help="Store to add the scores to.")
@click.option("--backend", type=click.Choice(["torch", "vllm"]), default="torch", show_default=True)
@click.option(
    "--probe",
    "probes",
    type=click.Choice(["ar", "spc"]),
    multiple=True,
    help="Only this probe: ambiguous reasoning or symbolic patterns. Both by default.",
)
@click.option(
    "--shots",
    default=10,
    show_default=True,
    type=click.IntRange(0, 10),
    help="Solved items before each question.",
)
@click.option(
    "--limit", type=click.IntRange(1), help="Use only the first N items of each task.", metavar="N"
)
@click.option(
    "--item-seed", default=0, show_default=True, help="Seed of the items; 0 gives the standard set."
)
@click.option("--chat", is_flag=True, help="Use the model's chat template.")
@click.option(
    "--tensor-parallel",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="GPUs that share the model in vLLM.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1; for torch.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--device-map", type=click.Choice(["auto"]), help="Spread the model over several GPUs."
)
@click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."
)
@click.option(
    "--batch-size",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Prompts in a batch; for torch.",
)
@click.option("--run", metavar="RUN", help="The run of this model, if several captured it.")
@click.option("--source", metavar="NAME", help="Store the scores under another name.")
@click.option("--replace", is_flag=True, help="Replace this model's old scores.")
@debug_option
def probe(**options: Any) -> None:
    """Run the two synthetic probes on a model and store its scores.

    \b
    Examples:
      lpp-capture probe --model Qwen/Qwen2.5-0.5B-Instruct --store ./lpp
      lpp-capture probe --model ./my-model --backend vllm --store ./lpp
      lpp-capture probe --model ./my-model --probe spc --limit 20 --store ./lpp

    Ambiguous reasoning (lpp_ar, 160 items) and symbolic pattern completion
    (lpp_spc, 100 items) run through lm-eval. The scores become rows of the table
    `benchmarks`; lm-eval's result files are stored beside them.
    """
    require("torch", "transformers", "safetensors", "lm_eval", extra="probes")
    from lpp.capture.probes.probe import probe_into

    done = probe_into(
        options["store"],
        _request(options),
        source=options["source"],
        run=options["run"],
        replace=options["replace"],
    )
    _show(done)
    there = f" {shlex.quote(str(options['store']))}"
    click.echo("Next: lpp-analyze " + ("profile" if done.has_runs else "benchmarks list") + there)


def _request(options: dict[str, Any]) -> "ProbeRequest":
    from lpp.capture.models.spec import ModelSpec
    from lpp.capture.probes.model import ProbeRequest

    def take(*names: str) -> dict[str, Any]:
        return {name: options[name] for name in names}

    return ProbeRequest(
        model=ModelSpec(
            id=options["model"],
            **take("revision", "dtype", "device", "device_map", "trust_remote_code"),
        ),
        probes=tuple(dict.fromkeys(options["probes"])) or ("ar", "spc"),
        **take("backend", "shots", "limit", "item_seed", "chat", "batch_size"),
        **take("tensor_parallel"),
    )


def _show(done: "Probed") -> None:
    click.echo(f"{done.model}\n{done.source}\n")
    click.echo(f"{'task':<17}{'metric':<18}{'score':>7}{'stderr':>8}{'95 %':>15}{'n':>6}")
    for result in done.results:
        for score in result.scores:
            click.echo(_line(score))
    click.echo(f"\nrun: {done.run or 'none: ' + done.why_no_run}")


def _line(score: "ProbeScore") -> str:
    low, high = score.interval
    stderr = "-" if score.stderr is None else f"{score.stderr:.3f}"
    metric = score.metric.removesuffix(",none")
    return (
        f"{score.task:<17}{metric:<18}{score.value:>7.3f}{stderr:>8}"
        f"{f'{low:.3f}-{high:.3f}':>15}{score.n:>6}"
    )
