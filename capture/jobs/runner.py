"""Run jobs one after another, each in its own process.

A process frees everything when it ends: device memory, half-built models, workers of an engine.
Within one process nothing guarantees that, least of all after it ran out of memory. A crash, or a
kill by the system, ends only one job. The cost is starting Python and torch, a few seconds per job.
A job that is known to be done (`lpp.capture.engine.run_cache`) starts no process.

Each process runs the command that a user would type, and reports its outcome as JSON.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lpp.capture.engine.run_cache import finished, skip_finished
from lpp.capture.jobs.file import Job, command_line
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.request import GRACE_SECONDS
from lpp.store.objects.place import Place
from lpp.store.process.debugging import debugging
from lpp.store.process.signals import EXIT_USER_ERROR, polite_ends
from lpp.store.progress import BLANK, Display

Status = Literal["done", "skipped", "failed", "interrupted", "not started"]


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The outcome of one job."""

    name: str
    status: Status
    run: str | None = None
    """Run id, once it is known."""
    reason: str = ""
    """Why it failed: the first line of its message."""
    tokens: int = 0
    """Captured by this command; 0 for a skipped job."""
    seconds: float = 0.0
    """From the first forward pass to the last commit."""
    missing: int = 0
    """Shards of other parts that are still missing."""


LEFTOVER_SECONDS: Final = 5.0
"""After this time, processes that a job left running are killed, such as Python's tracker of
shared memory."""


def run_jobs(
    jobs: Sequence[Job],
    store: Place,
    part: Part = WHOLE,
    grace: float = GRACE_SECONDS,
    more: Sequence[str] = (),
    *,
    display: Display = BLANK,
) -> list[JobResult]:
    """Run every job in turn, even if one fails; returns one result per job, in order.

    part: the shards of each run that this process captures. After Ctrl-C or another request to
    stop, the current job finishes its shard within `grace` seconds and no further job starts.
    more: further arguments of each command, such as `--executor=ray`. display: a line for each job.
    """
    results: list[JobResult] = []
    options = [f"--store={store}", f"--grace={grace:g}", *_part_arguments(part), *more]
    with contextlib.suppress(KeyboardInterrupt), polite_ends():
        for number, job in enumerate(jobs, start=1):
            display.say(f"[{number}/{len(jobs)}] {job.name}")
            outcome = skip_finished(store, job.request, part)
            if outcome is not None:
                results.append(_result(job, outcome.document()))
                continue
            result, stopped = _run(job, options)
            results.append(result)
            if stopped:
                break
    unstarted = jobs[len(results) :]
    return results + [JobResult(name=job.name, status="not started") for job in unstarted]


def _run(job: Job, options: Sequence[str]) -> tuple[JobResult, bool]:
    """(result of one job in its own process, whether it was asked to stop)."""
    with tempfile.TemporaryDirectory(prefix="lpp-job-") as folder:
        report = Path(folder, "report.json")
        more = [*options, f"--report={report}"]
        more += ["--debug"] if debugging() else []
        command = [sys.executable, "-m", "lpp.capture.cli.command", "run", *job.arguments, *more]
        code, stopped = _finish(command)
        with contextlib.suppress(FileNotFoundError):
            return _result(job, json.loads(report.read_bytes())), stopped
    if stopped:
        return JobResult(name=job.name, status="interrupted"), stopped
    return JobResult(name=job.name, status="failed", reason=_reason_without_report(code)), stopped


def _finish(command: Sequence[str]) -> tuple[int, bool]:
    """Run a command to its end; (exit code, whether it was asked to stop).

    The job has its own process group. In this one, it would get Ctrl-C twice, from the terminal
    and from here, and a second request stops it at once.
    """
    job = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, process_group=0)
    try:
        try:
            return job.wait(), False
        except KeyboardInterrupt:
            job.send_signal(signal.SIGINT)
            return job.wait(), True
    except BaseException:  # a second Ctrl-C
        job.kill()
        raise
    finally:
        job.wait()
        _end_group(job.pid)


def _end_group(group: int) -> None:
    """Kill processes that a job left running after `LEFTOVER_SECONDS`: they hold device memory."""
    until = time.monotonic() + LEFTOVER_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)


def _part_arguments(part: Part) -> list[str]:
    return [] if part == WHOLE else [f"--part={part}"]


def _result(job: Job, report: Mapping[str, Any]) -> JobResult:
    return JobResult(
        name=job.name,
        status=report["status"],
        run=report.get("run"),
        reason=report.get("reason", ""),
        tokens=report.get("tokens", 0),
        seconds=report.get("seconds", 0.0),
        missing=report.get("missing_shards", 0),
    )


def _reason_without_report(code: int) -> str:
    """Why a process that wrote no report ended."""
    if code == -signal.SIGKILL:
        return "killed (SIGKILL), as the system does when memory runs out"
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"crashed ({known.get(-code, f'signal {-code}')})"
    return f"ended with exit code {code} and no report"


def format_results(results: Sequence[JobResult], seconds: float) -> str:
    """The outcome of each job in two lines of 80 columns. seconds: of all jobs together."""
    lines = [f"{'':4}{'job':<37}{'':<11}{'tokens':>9}{'seconds':>9}{'tokens/s':>10}"]
    for number, result in enumerate(results, start=1):
        numbers = ""
        if result.seconds:
            rate = result.tokens / result.seconds
            numbers = f"{result.tokens:>9,}{result.seconds:>9.1f}{rate:>10,.0f}"
        name = _middle(result.name, 36)
        lines.append(f"{number:>3} {name:<37}{result.status:<11}{numbers}".rstrip())
        if detail := result.reason or result.run:
            lines.append(f"    {_short(detail, 76)}")
    return "\n".join([*lines, "", _format_summary(results, seconds)])


def _format_summary(results: Sequence[JobResult], seconds: float) -> str:
    """Number of jobs by status, and the time; a line if shards of other parts are missing."""
    order: tuple[Status, ...] = ("done", "skipped", "failed", "interrupted", "not started")
    counts = {status: sum(r.status == status for r in results) for status in order}
    ended = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    minutes, rest = divmod(round(seconds), 60)
    line = f"{len(results)} job{'s' * (len(results) != 1)}: {ended}, in {minutes} min {rest} s."
    if waiting := sum(r.missing > 0 for r in results):
        line += f"\nRuns that still miss shards of other parts: {waiting}."
    return line


def exit_code(results: Sequence[JobResult]) -> int:
    """0 when every job is done, 2 after an interruption, 1 when a job failed.

    2 means that the command could not do its work; a failed job is a result of that work.
    """
    statuses = {result.status for result in results}
    if statuses & {"interrupted", "not started"}:
        return EXIT_USER_ERROR
    return int("failed" in statuses)


def list_jobs(jobs: Sequence[Job], store: Place, part: Part = WHOLE) -> str:
    """The command of each job; jobs that are done are marked."""
    lines = []
    more = [f"--store={store}", *_part_arguments(part)]
    for number, job in enumerate(jobs, start=1):
        done = finished(store, job.request, part)
        lines.append(f"{number:>3} {job.name}{'' if done is None else f' (done: {done.run})'}")
        lines.append(f"    {command_line(job, *more)}")
    return "\n".join(lines)


def _middle(text: str, width: int) -> str:
    """`text` shortened to `width` in its middle: names of similar jobs differ at the end."""
    if len(text) <= width:
        return text
    start = width // 3
    return f"{text[:start]}...{text[start + 3 - width :]}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
