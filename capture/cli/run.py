"""`lpp-capture run`: one capture, or a part of one."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.capture.cli.options import STORE, check_executor, executor_options, grace_option
from lpp.capture.models.machine import require
from lpp.capture.plan.epochs import READ_BYTES_PER_SECOND
from lpp.capture.plan.parts import Part, chosen_part
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import first_line
from lpp.store.process.signals import check_requests
from lpp.store.terminal.console import FiniteRange, LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.engine.outcome import Outcome

OF_EPOCHS = ("recompute_tokens_per_second", "read_mb_per_second")
"""Options of what --dry-run says about epochs."""


@click.command(cls=LppCommand)
@with_options(CaptureSettings)
@click.option(
    "--store", type=STORE, help="Write into this store: a directory or s3://bucket/prefix."
)
@click.option(
    "--resume",
    metavar="RUN",
    help="Refuse to capture any run but this one, by its id or its name.",
)
@click.option(
    "--part",
    metavar="K/N",
    help="Capture every N-th shard from shard K on, K from 0 to N - 1. slurm: K and N of this "
    "srun task or array element.",
)
@click.option("--rank", type=int, metavar="K", help="With --world N: the same as --part K/N.")
@click.option(
    "--world", type=click.IntRange(1), metavar="N", help="With --rank: the number of processes."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the outcome, or the reason of a failure, to FILE as JSON.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Load the model, print plan, disk, memory and time, and capture nothing.",
)
@click.option(
    "--recompute-tokens-per-second",
    type=FiniteRange(0, min_open=True),
    metavar="N",
    help="With --dry-run: compare storing with computing again at N tokens/s. Default: the "
    "measured speed.",
)
@click.option(
    "--read-mb-per-second",
    type=FiniteRange(0, min_open=True),
    metavar="N",
    help="With --dry-run: compare at N MB/s of reading rows from disk. Default: 1000, which is "
    "not measured.",
)
@executor_options
@grace_option
@debug_option
def run(**options: Any) -> int:
    """Capture one model on one corpus into --store.

    \b
    Examples:
      lpp-capture run --model Qwen/Qwen2.5-0.5B-Instruct --corpus alpaca \\
          --store ./lpp
      lpp-capture run --model ./my-model --corpus texts.jsonl --prompts 500 \\
          --context 500 --sites final,'block.*' --device cuda --store ./lpp
      lpp-capture run --model ./my-model --corpus reviews.jsonl --fields label \\
          --store ./lpp
      srun lpp-capture run --model ./my-model --corpus texts.jsonl \\
          --device cuda --store ./lpp --part slurm
      lpp-capture run --model ./my-model --corpus texts.jsonl \\
          --device cuda --store ./lpp --executor ray --address auto
      lpp-capture run --model ./my-model --corpus alpaca --continue 64 \\
          --temperature 0.7 --store ./lpp
      lpp-capture run --model ./my-model --corpus alpaca --store ./lpp --dry-run
      lpp-capture run --model EleutherAI/pythia-70m --corpus alpaca \\
          --revision step1000 --series pythia-70m --store ./lpp

    The same command resumes a stopped run: committed shards stay. Ctrl-C or
    SIGTERM finishes the shards under way, a second one exits at once; exit code 2.
    A finished run is skipped without loading the model.

    Works with any causal transformers model whose structure it recognises.
    Tested: Llama, Qwen2, Qwen3, Mistral, Gemma 2, Gemma 3, Phi-3, GPT-2, OPT,
    Falcon, GPT-NeoX.
    """
    check_executor(options)
    of_epochs = [name for name in OF_EPOCHS if options[name] is not None]
    if of_epochs and not options["dry_run"]:
        raise click.UsageError(f"--{of_epochs[0].replace('_', '-')} goes with --dry-run.")
    if missing := [f"--{name}" for name in ("model", "corpus", "store") if options[name] is None]:
        raise click.UsageError(f"Missing: {', '.join(missing)}.")
    if options["dry_run"]:
        return _dry_run(options)
    with reported(options["report"]) as done:
        outcome = _capture(options)
        done.append(outcome)
    click.echo(outcome.message(options["store"]), err=outcome.stopped)
    return outcome.exit_code


def _dry_run(options: Mapping[str, Any]) -> int:
    """Print the plan of one capture and what it needs; refuse what the capture would refuse."""
    for name, given in (("report", options["report"]), ("executor", options["executor"] == "ray")):
        if given:
            raise click.UsageError(f"--dry-run captures nothing: leave --{name} out.")
    part, request = _part(options), request_of(taken(CaptureSettings, options))
    require("torch", "transformers", "safetensors")
    from lpp.capture.engine.dry_run import dry_run

    recompute, megabytes = (options[name] for name in OF_EPOCHS)
    result = dry_run(
        options["store"],
        request,
        resume=options["resume"],
        part=part,
        recompute=recompute,
        read=READ_BYTES_PER_SECOND if megabytes is None else megabytes * 1e6,
        display=SHOWN,
    )
    click.echo(result.message())
    result.check()
    return 0


def _capture(options: Mapping[str, Any]) -> "Outcome":
    part, request = _part(options), request_of(taken(CaptureSettings, options))
    from lpp.capture.engine.run_cache import skip_finished

    store, resume = options["store"], options["resume"]
    outcome = skip_finished(store, request, part) if resume is None else None
    if outcome is not None:
        return outcome
    require("torch", "transformers", "safetensors")
    if options["executor"] == "ray":
        from lpp.capture.ray.executor import capture_on_ray

        of_ray = {name: options[name] for name in ("grace", "workers", "address")}
        return capture_on_ray(store, request, resume=resume, part=part, display=SHOWN, **of_ray)
    from lpp.capture.engine.run import capture_into

    return capture_into(
        store, request, resume=resume, part=part, grace=options["grace"], display=SHOWN
    )


def _part(options: Mapping[str, Any]) -> Part:
    return chosen_part(options["part"], options["rank"], options["world"], os.environ)


@contextmanager
def reported(file: Path | None) -> Iterator[list["Outcome"]]:
    """A list for the outcome, which is written to `file` at the end; or the reason of a failure."""
    if file is not None and not file.parent.is_dir():  # found before hours of work
        raise click.UsageError(f"--report {file}: there is no directory {file.parent}.")
    outcomes: list[Outcome] = []
    document: Any = None
    try:
        yield outcomes
        document = outcomes[0].document()
    except Exception as error:
        check_requests()  # else a stopped job would be reported as failed
        document = {"status": "failed", "reason": first_line(error)}
        raise
    finally:
        if file is not None and document is not None:
            file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
