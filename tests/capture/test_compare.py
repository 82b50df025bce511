"""`lpp-capture compare`: from two models to what changed, in one command."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner, Result

from lpp.analyze import DiffSettings, diff
from lpp.capture.cli import compare as module
from lpp.capture.cli.command import main
from lpp.capture.cli.compare import models_named
from lpp.store import open_store
from lpp.store.errors import InputError

TEXTS = ["The quick brown fox jumps over the lazy dog.", "A fox.", "is it 3 or 4? Ask anything."]


@pytest.fixture
def models(
    tiny_folder: Callable[[str], Path], tiny_tokenizer: Any, tmp_path: Path
) -> Callable[..., Path]:
    """A copy of a tiny model, with noise in the weights of its second block, or of another."""

    def make(name: str, noise: float, block: int = 2, family: str = "llama") -> Path:
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(family))
        torch.manual_seed(7)
        with torch.no_grad():
            for weight in model.model.layers[block - 1].mlp.parameters():
                weight.add_(noise * torch.randn_like(weight))
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def compare(tmp_path: Path, *words: object) -> Result:
    corpus = tmp_path / "texts.jsonl"
    if not corpus.exists():  # a file that was written again is another corpus
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    of_run = ("--corpus", corpus, "--context", 40, "--store", tmp_path / "lpp", "--device", "cpu")
    return CliRunner().invoke(main, [*map(str, ("compare", *words, *of_run))])


def page(tmp_path: Path, *words: object) -> Any:
    """The JSON that a comparison writes."""
    done = compare(tmp_path, *words, "--format", "json", "-o", tmp_path / "page.json")
    assert done.exit_code == 0, done.output
    return json.loads((tmp_path / "page.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_what_changed_is_what_plain_transformers_computes(
    family: str, models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, other = (models(f"{family}-{k}", k * 0.3, family=family) for k in (0, 1))
    found = page(tmp_path, base, other)
    numbers = {row["number"]: row["mean"] for row in found["tables"]["drift_predictions"]}
    numbers |= {"sqnr": found["tables"]["drift_sites"][0]["sqnr"]}

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    kl, flips, accepted, losses = [], [], [], []
    signal = noise = 0.0
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])[:, :40]
        both, rows = [], []
        for folder in (base, other):
            model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
            with torch.no_grad():
                out = model(ids, output_hidden_states=True)
            both.append(out.logits[0].double().log_softmax(-1))
            rows.append(out.hidden_states[-1][0].double())  # behind the final norm
        a, b = rows
        signal, noise = signal + (a**2).sum(), noise + ((b - a) ** 2).sum()
        p, q = (one.exp() for one in both)
        accepted += torch.minimum(p, q).sum(-1).tolist()  # of a token drawn from q
        after = torch.arange(ids.shape[1] - 1), ids[0, 1:]
        losses += (both[0][:-1][after] - both[1][:-1][after]).tolist()
        kl += ((both[0].exp() * (both[0] - both[1])).sum(-1)).tolist()
        flips += (both[0].argmax(-1) != both[1].argmax(-1)).tolist()
    assert numbers["kl"] == pytest.approx(sum(kl) / len(kl), rel=1e-6)
    assert numbers["flips"] == pytest.approx(sum(flips) / len(flips), rel=1e-6)
    assert numbers["same_top_p"] == pytest.approx(1 - sum(flips) / len(flips), rel=1e-6)
    assert numbers["ear"] == pytest.approx(sum(accepted) / len(accepted), rel=1e-6)
    assert numbers["sqnr"] == pytest.approx(10 * math.log10(signal / noise), rel=1e-6)
    change = sum(losses) / len(losses)
    assert numbers["perplexity_ratio"] == pytest.approx(math.exp(change), rel=1e-6)
    square = sum(loss**2 for loss in losses) / len(losses)
    assert numbers["rms_logprob"] == pytest.approx(math.sqrt(square), rel=1e-6)

    def no_capture(*given: object, **how: object) -> None:
        raise AssertionError("a finished run was captured again")

    monkeypatch.setattr(module, "_capture", no_capture)
    assert page(tmp_path, base, other)["tables"] == found["tables"]


@pytest.mark.slow
def test_the_block_that_moved_and_the_gate(models: Callable[..., Path], tmp_path: Path) -> None:
    base, other = models("base", 0.0), models("other", 0.3)
    rows = page(tmp_path, base, other, "--sites", "all")["tables"]["drift_sites"]
    distance = {row["site"]: row["relative_distance"] for row in rows}
    assert distance["block.1"] == 0
    assert distance["block.2"] > 0

    passed = compare(tmp_path, base, other, "--sites", "all", "--fail-if", "kl.mean > 100")
    assert passed.exit_code == 0, passed.output
    failed = compare(tmp_path, base, other, "--fail-if", "flips >= 0", "--fail-if", "kl > 1e-9")
    assert failed.exit_code == 1
    assert "To see which block differs first: lpp-capture compare" in failed.output


@pytest.mark.slow
def test_checkpoints_are_a_series_by_step(models: Callable[..., Path], tmp_path: Path) -> None:
    base = models("base", 0.0)
    for step, block in ((9, 2), (10, 1), (200, 1)):
        models(f"out/checkpoint-{step}", step / 30, block)
    pattern = tmp_path / "out" / "checkpoint-*"
    done = compare(tmp_path, base, pattern, "--sites", "all", "-o", tmp_path / "steps.svg")
    assert done.exit_code == 0, done.output
    picture = (tmp_path / "steps.svg").read_text()
    for words in ("by step", "step of the training", "Relative distance in depth", "A base"):
        assert words in picture
    command = module.analyze_command(
        ("diff", str(tmp_path / "lpp"), "--against", "base", "*check*")
    )
    text = " ".join(
        subprocess.run(command, capture_output=True, check=True).stdout.decode().split()
    )
    assert "The first site that differs is block.2 from step 9 on, block.1 from step 10 on." in text

    found = page(tmp_path, base, pattern, "--sites", "all")["tables"]
    runs = open_store(tmp_path / "lpp").runs
    step_of = {run.id: run.plan.model.series.step for run in runs.values() if run.plan.model.series}
    assert [step_of[row["run_b"]] for row in found["comparisons"]] == [9, 10, 200]
    last = next(run for run in step_of if step_of[run] == 200)
    from_last = [row for row in found["drift_predictions"] if row["run_a"] == last]
    assert {step_of[row["run_b"]] for row in from_last} == {9, 10}
    for row in from_last:
        other = diff(tmp_path / "lpp", last, row["run_b"], DiffSettings(sites=["final"]))
        assert other.predictions[row["number"]].mean == row["mean"]


@pytest.mark.slow
def test_two_candidates_that_are_no_series_are_ordered_by_kl(
    models: Callable[..., Path], tmp_path: Path
) -> None:
    base, far, near = models("base", 0.0), models("far", 0.5), models("near", 0.1)
    found = page(tmp_path, base, far, near)["tables"]
    assert [row["run_b"].rpartition("-")[0] for row in found["comparisons"]] == ["near", "far"]
    assert {row["run_a"].rpartition("-")[0] for row in found["drift_predictions"]} == {"base"}


def test_a_pattern_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder "):
        models_named(str(tmp_path / "checkpoint-*"))
    (tmp_path / "checkpoint-last").mkdir()
    with pytest.raises(InputError, match="does not end in its step"):
        models_named(str(tmp_path / "checkpoint-*"))
    assert models_named("demo") == [("demo", None, None)]


def test_bad_words_capture_nothing(models: Callable[..., Path], tmp_path: Path) -> None:
    base = models("base", 0.0)
    for words, says in (
        ((base, tmp_path / "nothing"), "no folder"),
        ((base,), "Missing argument 'CANDIDATE...'"),
        ((base, base, "--sites", "head"), "no site 'head'"),
    ):
        done = compare(tmp_path, *words)
        assert done.exit_code == 2, done.output
        assert says in done.output
        assert not (tmp_path / "lpp").exists()
    same = compare(tmp_path, base, base)
    assert same.exit_code == 2
    assert "Name another CANDIDATE" in same.output
