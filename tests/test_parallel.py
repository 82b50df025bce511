"""Several processes on one store at once, with the packaged model: no coordination, nothing lost.

The stores they make are compared byte for byte with what one process makes alone.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored import only_run, stored_objects

Capture = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]
OPTIONS = ("--prompts", 20, "--context", 64, "--sites", "embed,final", "--shard-mib", 1)
"""Three shards of the packaged model."""


@pytest.fixture(scope="module")
def alone(capture_packaged: Capture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    root = tmp_path_factory.mktemp("alone") / "store"
    done = capture_packaged(root, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert only_run(root).plan.n_shards == 3
    return root


def finish(process: "subprocess.Popen[str]", report: Path) -> tuple[str, dict[str, object]]:
    """What it printed and reported."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, json.loads(report.read_text())


def test_parts_at_once_make_the_store_of_one_process(
    start_packaged: Start, alone: Path, tmp_path: Path
) -> None:
    root, reports = tmp_path / "store", [tmp_path / f"{k}.json" for k in range(2)]
    parts = [
        start_packaged(root, *OPTIONS, "--part", f"{k}/2", "--report", reports[k]) for k in range(2)
    ]
    told = [finish(part, report) for part, report in zip(parts, reports, strict=True)]
    assert stored_objects(root) == stored_objects(alone)
    shards = only_run(root).plan.n_shards
    captured = [report["captured_shards"] for _, report in told]
    assert captured == [len(range(k, shards, 2)) for k in range(2)]
    assert [report["part"] for _, report in told] == ["0/2", "1/2"]
    # whoever ends last finds the run complete; the other may have ended before or after it
    assert any("is complete.\nNext: lpp-analyze profile" in out for out, _ in told)


def test_a_part_alone_says_what_is_missing_and_the_rest_completes_it(
    capture_packaged: Capture, alone: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    done = capture_packaged(root, *OPTIONS, "--part", "1/2")
    assert done.returncode == 0, done.stderr
    run, whole = only_run(root), only_run(alone)
    assert run.id == whole.id  # the plan knows nothing of parts
    assert run.missing_shards == tuple(range(0, whole.plan.n_shards, 2))
    assert "  part 1/2: shards 2" in done.stderr
    assert f"({run.id}): part 1/2 is done.\n" in done.stdout
    assert f"are still missing: {len(run.missing_shards)}.\n" in done.stdout
    assert f"lpp-capture status {root}" in done.stdout
    again = capture_packaged(root, *OPTIONS, "--part", "1/2")  # its own, and nothing else
    assert again.returncode == 0
    assert only_run(root).missing_shards == run.missing_shards
    assert capture_packaged(root, *OPTIONS).returncode == 0  # one process takes what is left
    assert stored_objects(root) == stored_objects(alone)


def test_of_two_processes_on_one_shard_one_wins_and_the_other_says_so(
    capture_packaged: Capture, start_packaged: Start, alone: Path, tmp_path: Path
) -> None:
    root, report = tmp_path / "store", tmp_path / "late.json"
    late = start_packaged(root, *OPTIONS, "--report", report)
    until = time.monotonic() + 120
    while not list(root.glob("runs/*/shards/*/COMMIT.json")):  # it has chosen its shards
        assert late.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    late.send_signal(signal.SIGSTOP)
    done = capture_packaged(root, *OPTIONS)
    assert done.returncode == 0, done.stderr
    late.send_signal(signal.SIGCONT)
    out, err = late.communicate(timeout=240)
    assert late.returncode == 0, err
    told = json.loads(report.read_text())
    assert told["lost_race_shards"] > 0
    assert told["captured_shards"] + told["lost_race_shards"] == only_run(root).plan.n_shards
    assert "Give each process a --part of its own." in out
    assert stored_objects(root) == stored_objects(alone)


def test_status_sees_a_run_under_way_and_one_that_was_killed(
    run_command: Capture, start_packaged: Start, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    process = start_packaged(root, *OPTIONS, "--prompts", 300, "--part", "0/2")
    until = time.monotonic() + 120
    while not list(root.glob("runs/*/shards/*/COMMIT.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)

    def status() -> Any:
        done = run_command("lpp-capture", "status", root, "--format", "json")
        assert done.returncode == 0, done.stderr
        (run,) = json.loads(done.stdout)["runs"]
        return run

    running = status()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = status()
    assert running["state"] == "running"
    (writer,) = running["writers"]
    assert (writer["pid"], writer["doing"], writer["alive"]) == (process.pid, "part 0/2", True)
    assert running["tokens_per_second"] > 0
    assert running["unclaimed_shards"] == running["shards"] // 2
    assert killed["state"] == "stopped"
    assert [writer["alive"] for writer in killed["writers"]] == [False]
    table = run_command("lpp-capture", "status", root)
    assert f"part 0/2: pid {process.pid} on this machine ended without finishing" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80
