"""Jobs run for real, each in its process: done, skipped, failed, killed, interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from stored import left_behind

from lpp.capture.cli.command import main
from lpp.capture.jobs.runner import JobResult, exit_code, format_results
from lpp.store import open_store

pytestmark = pytest.mark.slow  # a process for each job

DIES = """
import os, signal

os.kill(os.getpid(), signal.SIGKILL)
"""

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A working directory: two models, one that kills the process that loads it, a corpus."""
    for family in ("gpt2", "llama"):
        shutil.copytree(tiny_folder(family), tmp_path / family)
    deadly = tmp_path / "deadly"
    shutil.copytree(tiny_folder("llama"), deadly)
    config = json.loads((deadly / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_deadly.Deadly"}
    config["model_type"] = "deadly"
    config["auto_map"]["AutoConfig"] = "modeling_deadly.DeadlyConfig"
    (deadly / "config.json").write_text(json.dumps(config))
    (deadly / "modeling_deadly.py").write_text(DIES)
    (tmp_path / "texts.txt").write_text("\n\n".join("the dog and the fox " * 3 for _ in range(6)))
    return tmp_path


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    """`lpp-capture run` with these words, in `folder`."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("lpp-capture")), "run", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"},
    )


def run(folder: Path, *words: str) -> Finished:
    process = start(folder, *words)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


JOBS = """
store = "lpp"
corpora = ["texts.txt"]

[defaults]
prompts = 4
min-bytes = 0
context = 20

[[models]]
model = "missing-model"

[[models]]
model = "deadly"
trust-remote-code = true

[[models]]
model = "gpt2"
"""
GOOD = JOBS.replace('[[models]]\nmodel = "missing-model"\n', "").replace(
    '[[models]]\nmodel = "deadly"\ntrust-remote-code = true\n', ""
)


def test_every_job_runs_whatever_came_of_the_others(folder: Path) -> None:
    (folder / "jobs.toml").write_text(JOBS)
    done = run(folder, "--jobs", "jobs.toml")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (only,) = open_store(folder / "lpp").runs.values()
    assert (only.missing_shards, only.verify()) == ((), [])
    lines = [line for line in done.stdout.splitlines() if line]
    assert max(map(len, lines)) <= 80
    head, missing, why_missing, deadly, why_deadly, good, run_id, last = lines
    assert head.split() == ["job", "tokens", "seconds", "tokens/s"]
    assert missing.split() == ["1", "missing-model", "x", "texts.txt", "failed"]
    assert why_missing.strip().startswith("missing-model is not in the local hub cache")
    assert deadly.split() == ["2", "deadly", "x", "texts.txt", "failed"]
    assert why_deadly.strip() == "killed (SIGKILL), as the system does when memory runs out"
    assert good.split()[:6] == [
        "3",
        "gpt2",
        "x",
        "texts.txt",
        "done",
        str(only.plan.prompts.tokens),
    ]
    assert run_id.strip() == only.id
    assert last.startswith("3 jobs: 1 done, 2 failed, in ")
    # again: what is done starts nothing
    (folder / "good.toml").write_text(GOOD)
    again = run(folder, "--jobs", "good.toml")
    assert again.returncode == 0
    assert "1 job: 1 skipped, in " in again.stdout
    listed = run(folder, "--jobs", "jobs.toml", "--dry-run")
    assert listed.returncode == 0
    assert f"  3 gpt2 x texts.txt (done: {only.id})\n    lpp-capture run --" in listed.stdout
    assert listed.stdout.count("lpp-capture run --") == 3


def test_parts_of_a_file_of_jobs_are_parts_of_each(folder: Path) -> None:
    (folder / "jobs.toml").write_text(GOOD)
    done = run(folder, "--jobs", "jobs.toml", "--part", "1/2", "--store", "other")
    assert done.returncode == 0, done.stderr
    assert "part 1/2: shards none of 1" in done.stderr
    assert "1 part has nothing to do" in done.stderr
    (only,) = open_store(folder / "other").runs.values()  # the command line's store, not the file's
    assert only.missing_shards == (0,)
    assert not (folder / "lpp").exists()
    assert "Runs that still miss shards of other parts: 1." in done.stdout


def test_a_request_to_end_reaches_the_job_and_starts_no_other(folder: Path) -> None:
    (folder / "texts.txt").write_text("\n\n".join("the dog and the fox " * 9 for _ in range(4000)))
    text = GOOD.replace("prompts = 4", "prompts = 4000\nbatch-tokens = 20\nshard-mib = 1")
    (folder / "jobs.toml").write_text(text + '[[models]]\nmodel = "llama"\n')
    process = start(folder, "--jobs", "jobs.toml")
    until = time.monotonic() + 120
    while not list(folder.glob("lpp/runs/*/shards/*/COMMIT.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # becomes what Ctrl-C is, and the job's Ctrl-C
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "2 jobs: 1 interrupted, 1 not started" in out
    assert "the same command resumes" in err
    last = int(err.partition("Stopping after shard ")[2].split()[0])
    (only,) = open_store(folder / "lpp").runs.values()
    assert only.missing_shards == tuple(range(last, only.plan.n_shards))  # it ended its shard
    assert left_behind(only.path) == []  # no attempt, no sign: it ended tidily
    assert [p for p in only.verify() if "not committed" not in p.what] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "gpt2"], "--model: with --jobs, these are options of the file"),
        (["--resume", "x", "--seed", "3"], "--seed, --resume: with --jobs"),
        (["--part", "2/2"], "K from 0 to N - 1"),
        (["--store", "texts.txt"], "not an lpp store"),
    ],
)
def test_what_does_not_go_with_a_file_is_refused(folder: Path, words: list[str], says: str) -> None:
    (folder / "jobs.toml").write_text(GOOD)
    done = run(folder, "--jobs", "jobs.toml", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (folder / "lpp").exists()


def test_mistakes_are_found_before_anything_runs(folder: Path) -> None:
    (folder / "jobs.toml").write_text(GOOD.replace('store = "lpp"', ""))
    assert "store in the file of jobs" in run(folder, "--jobs", "jobs.toml").stderr
    assert "does not exist" in run(folder, "--jobs", "nowhere.toml").stderr
    (folder / "jobs.toml").write_text(GOOD.replace("context", "contxt"))
    done = run(folder, "--jobs", "jobs.toml")
    assert done.returncode == 2
    assert "defaults.contxt" in done.stderr
    assert not (folder / "lpp").exists()


def test_a_report_says_what_was_done_or_why_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words = [
        "run",
        "--model",
        "gpt2",
        "--corpus",
        "texts.txt",
        "--store",
        "lpp",
        "--min-bytes",
        "0",
    ]
    words += ["--context", "20", "--report", "r.json"]
    assert CliRunner().invoke(main, [*words, "--prompts", "4"]).exit_code == 0
    report = json.loads((folder / "r.json").read_text())
    (only,) = open_store(folder / "lpp").runs.values()
    assert report.pop("seconds") > 0
    assert report == {
        "status": "done",
        "run": only.id,
        "part": None,
        "captured_shards": 1,
        "lost_race_shards": 0,
        "missing_shards": 0,
        "set_aside_prompts": 0,
        "tokens": only.plan.prompts.tokens,
    }
    assert CliRunner().invoke(main, [*words, "--prompts", "9"]).exit_code == 2
    report = json.loads((folder / "r.json").read_text())
    assert report["status"] == "failed"
    assert report["reason"].startswith("Corpus texts.txt: 9 prompts asked for, 6 of 6 texts")
    nowhere = CliRunner().invoke(main, [*words, "--report", "nowhere/r.json"])
    assert nowhere.exit_code == 2
    assert "there is no directory nowhere" in nowhere.stderr


def test_the_table_fits_and_counts() -> None:
    results = [
        JobResult(name="m" * 90, status="done", run="r" * 67, tokens=1234567, seconds=1234.56),
        JobResult(name="b", status="failed", reason="because " * 20),
        JobResult(name="c", status="skipped", run="c-1", missing=2),
        JobResult(name="d", status="not started"),
    ]
    lines = format_results(results, 3725).splitlines()
    assert max(map(len, lines)) <= 80
    assert "r" * 67 in lines[2]  # a run id is never cut
    assert lines[1].split()[-3:] == ["1,234,567", "1234.6", "1,000"]
    assert lines[-2] == "4 jobs: 1 done, 1 skipped, 1 failed, 1 not started, in 62 min 5 s."
    assert lines[-1] == "Runs that still miss shards of other parts: 1."


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["done", "skipped"], 0),
        (["done", "failed"], 1),
        (["failed", "interrupted"], 2),
        (["done", "not started"], 2),
    ],
)
def test_exit_codes(statuses: list[str], code: int) -> None:
    assert exit_code([JobResult(name="x", status=s) for s in statuses]) == code  # type: ignore[arg-type]
