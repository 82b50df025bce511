"""The workflow in docs/ci-gate.yml is executed, with the action of action.yml that it uses: each of
their commands, as bash runs it there.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = yaml.safe_load((ROOT / "docs" / "ci-gate.yml").read_text())
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
IN_ANY_CASE = "always() && hashFiles('drift.md') != ''"
PROMPTS = 100


@pytest.fixture(scope="module")
def models(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Model folders: `base`, `near`, which is nearly that, and `far`."""
    root = tmp_path_factory.mktemp("models")
    for name, noise in (("base", 0.0), ("near", 1e-4), ("far", 0.3)):
        model = copy.deepcopy(tiny_model("llama"))
        model.config.max_position_embeddings = 512
        torch.manual_seed(3)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(noise * weight.std() * torch.randn_like(weight))
        model.save_pretrained(root / name)
        tiny_tokenizer.save_pretrained(root / name)
    texts = (f"The {k} quick brown foxes jump {k * k} times over dogs." for k in range(PROMPTS))
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (root / "base" / "prompts.jsonl").write_text("".join(lines))
    return root


def steps() -> Iterator[dict[str, Any]]:
    """The steps of the job, in place of the action its own, with what the job gives it."""
    for step in WORKFLOW["jobs"]["drift"]["steps"]:
        if "lpp-engine" not in step.get("uses", ""):
            yield step
            continue
        defaults = {name: value.get("default") for name, value in ACTION["inputs"].items()}
        given = {f"${{{{ inputs.{k} }}}}": v for k, v in {**defaults, **step["with"]}.items()}
        assert None not in given.values()
        for inner in ACTION["runs"]["steps"]:
            values = {name: given[value] for name, value in inner.get("env", {}).items()}
            yield {**inner, "env": values}


def run_job(
    folder: Path, base: Path, candidate: Path, cache: Path, named: str = "candidate"
) -> dict[str, int]:
    """The job in `folder`, checked out and restored as its actions do: exit codes by step. named:
    the candidate's folder.
    """
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "HF_HUB_OFFLINE": "1",
    }
    codes: dict[str, int] = {}
    for step in steps():
        name = str(step.get("name", step.get("uses")))
        when = step.get("if")
        assert when in (None, IN_ANY_CASE)
        if any(codes.values()) if when is None else not (folder / "drift.md").exists():
            continue
        if "uses" in step:
            match step["uses"].partition("@")[0], step.get("with", {}).get("path"):
                case "actions/checkout", "base":
                    shutil.copytree(base, folder / "base")
                case "actions/checkout", "candidate":
                    shutil.copytree(candidate, folder / named)
                case "actions/cache", str() as path if (cache / path).exists():
                    shutil.copytree(cache / path, folder / path)
        elif not step["run"].startswith("pip install "):  # what it installs is here
            script = folder / "step.sh"
            script.write_text(step["run"])
            done = subprocess.run(
                ["bash", "-eo", "pipefail", script],
                cwd=folder,
                env=environment
                | {k: named if v == "candidate" else v for k, v in step["env"].items()},
                check=False,
                text=True,
            )
            codes[name] = done.returncode
    return codes


@pytest.mark.slow
def test_the_workflow_passes_a_near_candidate_and_fails_a_far_one(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    codes = run_job(near, models / "base", models / "near", cache=tmp_path / "nothing")
    assert [*codes.values()] == [0, 0], capfd.readouterr().err
    codes = run_job(far, models / "base", models / "far", cache=near)
    assert [*codes.values()] == [1, 0], capfd.readouterr().err
    for folder, state in ((near, "not met"), (far, "FAIL")):
        drift = (folder / "drift.md").read_text()
        assert (folder / "summary.md").read_text() == drift
        assert f"\nthe first {PROMPTS} prompts, " in drift
        assert ("\nPASS: none of 3 conditions is met. " in drift) == (state == "not met")
        verdicts = re.findall(r"^\| (not met|FAIL) \| (\S+) ", drift, re.MULTILINE)
        assert {name: found for found, name in verdicts} == {
            "kl.mean": state,
            "flips": state,
            "cka": state,
        }


@pytest.mark.slow
def test_a_folder_may_be_named_like_an_option(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing = tmp_path / "nothing"
    codes = run_job(tmp_path, models / "base", models / "near", cache=nothing, named="--help")
    assert [*codes.values()] == [0, 0], capfd.readouterr().err
    assert (tmp_path / "drift.md").read_text().startswith("## Drift between two models")


def test_every_step_is_known() -> None:
    commands = {step["name"]: step["run"] for step in steps() if "run" in step}
    assert [command.split()[0] for command in commands.values()] == [
        *("pip", "conditions=()", "cat")
    ]
    restored = next(step["with"] for step in steps() if "cache" in step.get("uses", ""))
    assert f" --store ./{restored['path']} " in commands["Compare"]
    assert all(step["shell"] == "bash" for step in ACTION["runs"]["steps"] if "run" in step)
