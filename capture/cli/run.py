"""`lpp-capture run`: one capture, a part of one, or a file of jobs."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lpp.capture.cli.options import (
    STORE,
    check_executor,
    executor_arguments,
    executor_options,
    grace_option,
)
from lpp.capture.models.machine import require
from lpp.capture.plan.epochs import READ_BYTES_PER_SECOND
from lpp.capture.plan.parts import Part, chosen_part
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import first_line
from lpp.store.objects.place import place
from lpp.store.process.signals import EXIT_USER_ERROR, INTERRUPTED, check_requests
from lpp.store.terminal.console import FiniteRange, LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.engine.outcome import Outcome
    from lpp.capture.jobs.file import Job
    from lpp.store.objects.place import Place

WITH_JOBS = (
    *("jobs", "store", "part", "rank", "world", "dry_run", "grace"),
    *("executor", "address", "workers"),
)
"""Options allowed with --jobs; every other option belongs to one job."""

OF_EPOCHS = ("recompute_tokens_per_second", "read_mb_per_second")
"""Options of what --dry-run of one run says about epochs."""


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
    "--jobs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Capture the models, corpora and settings that a TOML file lists.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Load the model, print plan, disk, memory and time, and capture nothing. With --jobs: "
    "list the jobs.",
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
@click.pass_context
def run(context: click.Context, /, **options: Any) -> int:
    """Capture one model on one corpus into --store, or many with --jobs.

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
      lpp-capture run --jobs jobs.toml --store ./lpp
      lpp-capture run --model EleutherAI/pythia-70m --corpus alpaca \\
          --revision step1000,step2000,step4000 --store ./lpp

    The same command resumes a stopped run: committed shards stay. Ctrl-C or
    SIGTERM finishes the shards under way, a second one exits at once; exit code 2.
    With --jobs or several revisions, finished jobs are skipped, the others run
    also after one has failed, and a table comes last; exit code 1 if a job failed.

    Works with any causal transformers model whose structure it recognises.
    Tested: Llama, Qwen2, Qwen3, Mistral, Gemma 2, Gemma 3, Phi-3, GPT-2, OPT,
    Falcon, GPT-NeoX.
    """
    check_executor(options)
    of_epochs = [name for name in OF_EPOCHS if options[name] is not None]
    if of_epochs and (options["jobs"] is not None or not options["dry_run"]):
        name = of_epochs[0].replace("_", "-")
        raise click.UsageError(f"--{name} goes with --dry-run of one run.")
    if options["jobs"] is not None:
        return _run_jobs(context)
    if missing := [f"--{name}" for name in ("model", "corpus", "store") if options[name] is None]:
        raise click.UsageError(f"Missing: {', '.join(missing)}.")
    if "," in (options["revision"] or ""):
        return _run_revisions(context)
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


def _run_jobs(context: click.Context) -> int:
    """Read and check a file of jobs, then run or list them."""
    options = context.params
    given = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in WITH_JOBS
        and parameter.name in options
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: with --jobs, these are options of the file (see its defaults)."
        )
    from lpp.capture.jobs.file import read_jobs

    file = read_jobs(options["jobs"])
    store = options["store"] or (place(file.store) if file.store is not None else None)
    if store is None:
        raise click.UsageError("Missing option '--store', or store in the file of jobs.")
    return _run_each(file.jobs, store, options)


def _run_revisions(context: click.Context) -> int:
    """Run or list one job for each revision of a list."""
    options = context.params
    for name in ("resume", "report", "step"):
        if options[name] is not None:
            raise click.UsageError(f"--{name} is for one revision, not for a list of them.")
    from lpp.capture.cli.revisions import revision_jobs

    return _run_each(revision_jobs(context), options["store"], options)


def _run_each(jobs: "Sequence[Job]", store: "Place", options: Mapping[str, Any]) -> int:
    """Run or list jobs."""
    from lpp.capture.jobs.runner import exit_code, format_results, list_jobs, run_jobs

    part = _part(options)
    if options["dry_run"]:
        click.echo(list_jobs(jobs, store, part))
        return 0
    require("torch", "transformers", "safetensors")
    from lpp.store.store import open_if_any

    open_if_any(store)  # a bad path is reported once, not by every job
    start = time.monotonic()
    more = executor_arguments(options)
    results = run_jobs(jobs, store, part, options["grace"], more, display=SHOWN)
    click.echo(format_results(results, time.monotonic() - start))
    code = exit_code(results)
    if code == EXIT_USER_ERROR:
        click.echo(INTERRUPTED, err=True)
    return code


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
