"""A series: the steps of revisions, and runs of a hub's revisions."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
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
from lpp.capture.plan.from_plan import RepairOptions, request_of_plan
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.series import step_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store import open_store
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
        (["--revision", "step0,main"], "'step0,main' is a list, and a run has one revision"),
        (["--revision", "step0", "--series", "a", "--untrained-seed", "1"], "trained weights"),
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
    for words in (["--series", "s"], ["--step", "3"]):  # its revision is not what is loaded
        done = run("--revision", "step0", *words, model="./mine")
        assert done.exit_code == 2
        assert "needs --" in done.stderr


@pytest.mark.slow
def test_a_loop_over_revisions_is_a_series(hub: Path) -> None:
    for words in (["step0"], ["main", "--step", "30"]):
        done = run("--series", "lab/tiny", "--revision", *words)
        assert done.exit_code == 0, done.output
    assert run("--revision", "step5", "--series", "lab/tiny").exit_code == 2
    runs = open_store(hub / "lpp").runs.values()
    found = {(str(run.plan.model.series), run.plan.model.revision) for run in runs}
    assert found == {("step 0 of lab/tiny", "0" * 40), ("step 30 of lab/tiny", "2" * 40)}
    # again: the same commit without a series is another run, with it the one that is done
    assert run("--revision", "step0").exit_code == 0
    assert run("--revision", "step0", "--series", "lab/tiny").exit_code == 0
    status = CliRunner().invoke(main, ["status", "lpp", "--format", "json"]).stdout
    shown = [(one["series"], one["step"]) for one in json.loads(status)["runs"]]
    assert sorted(shown, key=str) == [("lab/tiny", 0), ("lab/tiny", 30), (None, None)]
    repaired = CliRunner().invoke(main, ["repair", "lpp", "--dry-run"])
    assert repaired.exit_code == 0, repaired.output


def test_the_note_of_a_request_tells_steps_apart(hub: Path) -> None:
    settings = CaptureSettings(model="lab/tiny", corpus="texts.txt", series="s", step=1)
    one, other = (request_of(replace(settings, step=step)) for step in (1, 2))
    assert request_key(one) not in (None, request_key(other))


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
