"""`lpp-capture run`: one capture, or a part of one."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.capture.cli.options import STORE, check_executor, executor_options
from lpp.capture.models.machine import require
from lpp.capture.plan.parts import WHOLE, Part, parse_part
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import first_line
from lpp.store.process.signals import check_requests
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.engine.outcome import Outcome


@click.command(cls=LppCommand)
@with_options(CaptureSettings)
@click.option(
    "--store", type=STORE, help="Write into this store: a directory or s3://bucket/prefix."
)
@click.option(
    "--part",
    metavar="K/N",
    help="Capture every N-th shard from shard K on, K from 0 to N - 1. slurm: K and N of this "
    "srun task or array element.",
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
@executor_options
@debug_option
def run(**options: Any) -> int:
    """Capture one model on one corpus into --store.

    \b
    Examples:
      lpp-capture run --model Qwen/Qwen2.5-0.5B-Instruct --corpus alpaca \\
          --store ./lpp
      lpp-capture run --model ./my-model --corpus texts.jsonl --prompts 500 \\
          --context 500 --sites final,'block.*' --store ./lpp
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

    Works with any causal transformers model whose structure it recognises:
    `lpp-capture models` says which classes were tried.
    """
    check_executor(options)
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

    result = dry_run(options["store"], request, part=part, display=SHOWN)
    click.echo(result.message())
    result.check()
    return 0


def _capture(options: Mapping[str, Any]) -> "Outcome":
    part, request = _part(options), request_of(taken(CaptureSettings, options))
    from lpp.capture.engine.run_cache import skip_finished

    store = options["store"]
    if (outcome := skip_finished(store, request, part)) is not None:
        return outcome
    require("torch", "transformers", "safetensors")
    if options["executor"] == "ray":
        from lpp.capture.ray.executor import capture_on_ray

        of_ray = {name: options[name] for name in ("workers", "address")}
        return capture_on_ray(store, request, part=part, display=SHOWN, **of_ray)
    from lpp.capture.engine.run import capture_into

    return capture_into(store, request, part=part, signals=True, display=SHOWN)


def _part(options: Mapping[str, Any]) -> Part:
    return WHOLE if options["part"] is None else parse_part(options["part"], os.environ)


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
