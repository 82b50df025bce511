"""A series: the steps of revisions, jobs that say them, and runs of a hub's revisions."""

import json
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner, Result
from on_disk import on_disk

from lpp.capture.cli.command import main
from lpp.capture.engine.run_cache import request_key
from lpp.capture.jobs.file import parse_jobs
from lpp.capture.plan.from_plan import RepairOptions, request_of_plan
from lpp.capture.plan.series import Checkpoint, checkpoints, step_of
from lpp.store import open_store
from lpp.store.errors import InputError
from lpp.store.format.plan import Series

# Steps


@pytest.mark.parametrize(
    ("revision", "step"),
    [
        ("step1000", 1000),
        ("step_1000", 1000),
        ("Step-0", 0),
        ("checkpoint-500", 500),
        ("global_step12", 12),
        ("stage1-step5000-tokens21B", 5000),
        ("step5000_seed3", 5000),
        ("iter_0000350.ckpt", 350),
        ("epoch3", 3),
        ("v1.5-step7", 7),
        ("epoch3-of-9", None),
        ("step1-step2", None),
        ("step10k", None),
        ("v1.5", None),
        ("main", None),
        ("abc1234", None),
        ("1234567", 1234567),
        ("0123456789abcdef0123456789abcdef01234567", None),
    ],
)
def test_the_step_of_a_revision(revision: str, step: int | None) -> None:
    assert step_of(revision) == step


def test_a_list_of_revisions_may_say_steps() -> None:
    assert checkpoints("step10, main=300,step2") == [
        Checkpoint("step10", 10),
        Checkpoint("main", 300),
        Checkpoint("step2", 2),
    ]


@pytest.mark.parametrize(
    ("revisions", "said"),
    [
        ("main,step1", "'main' names no single step: write main=STEP"),
        ("step1,,v1.5", "a revision is empty; 'v1.5' names no single step: write v1.5=STEP"),
        ("step1,main=x", "'main=x' names no single step: write main=STEP"),
        ("step1,step2,step1", "step1 is given twice"),
        ("step1,checkpoint-1", "step1 and checkpoint-1 are both step 1"),
    ],
)
def test_every_mistake_in_a_list_is_one_message(revisions: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        checkpoints(revisions)
    assert str(caught.value) == f"--revision {revisions}: {said}. Nothing was captured."


# Jobs files

HEAD = 'corpora = ["c"]\n'


def series(text: str) -> list[Series | None]:
    return [job.request.model.series for job in parse_jobs(HEAD + text, "jobs.toml").jobs]


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_jobs(HEAD + text, "jobs.toml")
    return [line.strip() for line in str(caught.value).splitlines()[1:-1]]


def test_a_job_names_its_series() -> None:
    text = """
[[models]]
model = "./step-100"
series = {name = "my run", step = 100}
[[models]]
model = "./step-200"
series = "my run"
step = 200
[[models]]
model = "lab/other"
revision = "step7"
series = "my run"
[[models]]
model = "lab/other"
revision = "step8"
step = 9
[[models]]
model = "lab/alone"
"""
    assert series(text) == [
        Series(name="my run", step=100),
        Series(name="my run", step=200),
        Series(name="my run", step=7),
        Series(name="lab/other", step=9),
        None,
    ]
    (first, *_) = parse_jobs(HEAD + text, "jobs.toml").jobs
    assert first.arguments[:3] == ("--model=./step-100", "--series=my run", "--step=100")


def test_a_matrix_of_revisions_is_a_series() -> None:
    text = 'models = ["lab/m"]\n[defaults]\nseries = "s"\n[matrix]\nrevision = ["step1", "step2"]'
    assert series(text) == [Series(name="s", step=1), Series(name="s", step=2)]
    text = 'models = ["lab/m"]\n[matrix]\nseries = [{name = "s", step = 1}, {name = "s", step = 2}]'
    assert series(text) == [Series(name="s", step=1), Series(name="s", step=2)]


def test_every_mistake_in_a_series_is_listed_with_its_place() -> None:
    text = """
[[models]]
model = "a"
series = {nmae = "s", step = "1"}
[[models]]
model = "b"
series = {name = 3, step = -1}
[[models]]
model = "c"
series = {name = "s", step = 1}
step = 2
[[models]]
model = "d"
series = 5
[matrix]
series = [{name = "s", step = 1}]
step = [1]
"""
    assert problems(text) == [
        "models[0].series.nmae: not known here. Did you mean name?",
        "models[0].series has no name",
        "models[0].series.step should be an integer, is '1'",
        "models[1].series.name should be a string, is 3",
        "models[1].series.step: -1 is not in the range 0<=x<=9007199254740991.",
        "models[2].step: given twice, alone and in series",
        "models[3].series should be a string, is 5",
        "matrix.step: given twice, alone and in series",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'models = [{model = "a", series = {name = "s", step = 1}},'
            ' {model = "b", series = {name = "s", step = 1}}]',
            "jobs 1 and 2 are both step 1 of s: --model=b --series=s --step=1 --corpus=c",
        ),
        ('models = [{model = "a", step = 1}]', "job 1, a x c: --step 1 needs --series NAME"),
        ('models = [{model = "a", series = "s"}]', "job 1, a x c: --series 's' needs --step N"),
        (
            'models = [{model = "a", series = {name = "", step = 1}}]',
            "job 1, a x c: --series: the name '' should be 1 to 200 bytes of printable text",
        ),
        (
            'models = [{model = "a", untrained-seed = 1, series = {name = "s", step = 1}}]',
            "job 1, a x c: --series and --step are for trained weights",
        ),
        ('models = [{model = "a", revision = "b,c"}]', "job 1, a x c: revision 'b,c' is a list"),
    ],
)
def test_what_makes_no_series_is_refused(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(said)


def test_one_step_under_two_settings_is_two_jobs() -> None:
    text = 'models = [{model = "a", series = {name = "s", step = 1}}]\n[matrix]\ncontext = [5, 6]'
    assert series(text) == [Series(name="s", step=1)] * 2


# Revisions of a hub


@pytest.fixture
def hub(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> Path:
    """A working directory whose hub cache holds lab/tiny at step0, step10 and main, and no hub."""
    import torch

    repo = tmp_path / "home" / "hub" / "models--lab--tiny"
    (repo / "refs").mkdir(parents=True)
    model = type(tiny_model("llama"))(tiny_model("llama").config)
    for number, revision in enumerate(("step0", "step10", "main")):
        torch.manual_seed(number)
        with torch.no_grad():
            model.lm_head.weight.normal_()
        commit = f"{number:x}" * 40
        model.save_pretrained(repo / "snapshots" / commit)
        tiny_tokenizer.save_pretrained(repo / "snapshots" / commit)
        (repo / "refs" / revision).write_text(commit)
    texts = "\n\n".join("the dog and the fox " * 3 for _ in range(4))
    (tmp_path / "texts.txt").write_text(texts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))  # of the jobs' processes
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def run(*words: str, model: str = "lab/tiny") -> Result:
    settings = ["--corpus", "texts.txt", "--prompts", "4", "--min-bytes", "0", "--context", "20"]
    return CliRunner(env={"COLUMNS": "80"}).invoke(
        main, ["run", "--model", model, "--store", "lpp", *settings, *words]
    )


@pytest.mark.slow
def test_a_list_of_revisions_is_a_run_each_whatever_comes_of_the_others(hub: Path) -> None:
    done = run("--revision", "step0,step5,main=30")
    assert done.exit_code == 1, done.output
    assert "3 jobs: 2 done, 1 failed, in " in done.stdout
    lines = done.stdout.splitlines()
    assert lines[3].split()[-1] == "failed"
    assert lines[4].strip().startswith("revision step5 of lab/tiny is not in the local hub cache")
    runs = open_store(hub / "lpp").runs.values()
    found = {(str(run.plan.model.series), run.plan.model.revision) for run in runs}
    assert found == {
        ("step 0 of lab/tiny", "0" * 40),
        ("step 30 of lab/tiny", "2" * 40),
    }
    assert [problem for run in runs for problem in run.verify()] == []
    # again: what is done starts nothing, the same commit without a series is another run
    again = run("--revision", "step0,main=30")
    assert (again.exit_code, "2 jobs: 2 skipped" in again.stdout) == (0, True), again.output
    alone = run("--revision", "step0")
    assert alone.exit_code == 0, alone.output
    runs = open_store(hub / "lpp").runs.values()
    assert sorted(str(run.plan.model.series) for run in runs)[0] == "None"
    status = CliRunner().invoke(main, ["status", "lpp", "--format", "json"]).stdout
    told = {(one["series"], one["step"]) for one in json.loads(status)["runs"]}
    assert told == {(None, None), *(("lab/tiny", step) for step in (0, 30))}
    assert "\n  step 30 of lab/tiny\n" in CliRunner().invoke(main, ["status", "lpp"]).stdout + "\n"
    repaired = CliRunner().invoke(main, ["repair", "lpp", "--dry-run"])
    assert repaired.exit_code == 0, repaired.output


def test_a_series_is_repaired_as_itself(hub: Path) -> None:
    done = run("--revision", "step10", "--series", "ours")
    assert done.exit_code == 0, done.output
    assert "step 10 of ours" in done.stderr
    (only,) = open_store(hub / "lpp").runs.values()
    assert only.plan.model.series == Series(name="ours", step=10)
    assert request_of_plan(only.plan, RepairOptions()).model.series == only.plan.model.series
    shutil.rmtree(on_disk(only.shards[0].path))
    repaired = CliRunner().invoke(main, ["repair", "lpp", "--missing"])
    assert repaired.exit_code == 0, repaired.output
    (again,) = open_store(hub / "lpp").runs.values()
    assert (again.id, again.missing_shards, again.verify()) == (only.id, (), [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--revision", "step0,main"], "'main' names no single step: write main=STEP"),
        (["--revision", "step0,step10", "--step", "3"], "--step is for one revision"),
        (["--revision", "step0,step10", "--report", "r"], "--report is for one revision"),
        (["--revision", "step0,step10", "--resume", "r"], "--resume is for one revision"),
        (["--revision", "step0,step10", "--untrained-seed", "1"], "are for trained weights"),
        (["--series", "a\nb", "--step", "3"], "should be 1 to 200 bytes of printable text"),
        (["--series", "a"], "--series 'a' needs --step N: lab/tiny names no single step."),
        (["--step", "3"], "--step 3 needs --series NAME"),
    ],
)
def test_what_does_not_go_together_is_one_message(hub: Path, words: list[str], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert not (hub / "lpp").exists()


def test_a_folder_has_no_revisions(hub: Path) -> None:
    (hub / "mine").mkdir()
    done = run("--revision", "step0,step10", model="./mine")
    assert done.exit_code == 2
    assert "For folders write a file of jobs" in " ".join(done.stderr.split())
    for words in (["--series", "s"], ["--step", "3"]):  # its revision is not what is loaded
        done = run("--revision", "step0", *words, model="./mine")
        assert done.exit_code == 2
        assert "needs --" in done.stderr


def test_a_list_is_listed_as_commands_with_all_options(hub: Path) -> None:
    words = ["--sites", "embed,final", "--engine-option", "seed=3", "--trust-remote-code"]
    done = run("--revision", "step0,step10", "--series", "s", "--dry-run", *words)
    assert done.exit_code == 0, done.output
    first, command, second, _ = done.stdout.splitlines()
    assert first.endswith("tiny x texts.txt revision=step0 step=0")
    assert second.endswith("tiny x texts.txt revision=step10 step=10")
    for word in ("--sites=embed,final", "--engine-option=seed=3", "--trust-remote-code"):
        assert f" {word} " in command
    assert {"--revision=step0", "--series=s", "--step=0"} <= set(command.split())


def test_the_note_of_a_request_tells_steps_apart(hub: Path) -> None:
    text = 'models = [{model = "lab/tiny", series = {name = "s", step = 1}}]\n'
    one = parse_jobs(HEAD.replace('"c"', '"texts.txt"') + text, "j").jobs[0].request
    other = parse_jobs(HEAD.replace('"c"', '"texts.txt"') + text.replace("1", "2"), "j")
    assert request_key(one) not in (None, request_key(other.jobs[0].request))


class _Hub(BaseHTTPRequestHandler):
    """A hub that has the model and none of its revisions."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_revision_that_the_hub_does_not_have_is_named(hub: Path, monkeypatch: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        done = run("--revision", "step7", "--series", "s")
        server.shutdown()
    assert done.exit_code == 2
    assert "lab/tiny has no revision 'step7' on the hub" in " ".join(done.stderr.split())
    assert not (hub / "lpp").exists()
