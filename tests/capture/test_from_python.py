"""`lpp.capture.capture`: the command's plan and bytes from Python, and what it leaves behind."""

import gc
import itertools
import json
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
import transformers
from click.testing import CliRunner
from stored import stored_objects

from lpp.capture import capture
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.cli.command import main
from lpp.capture.from_python import OF_LOADING
from lpp.capture.jobs.file import option_by_name
from lpp.capture.models.same_weights import state_fingerprint
from lpp.store import Run, open_store
from lpp.store.errors import InputError, LppError

TEXTS = ["the dog and the fox " * (1 + n % 5) for n in range(12)]
SETTINGS: dict[str, Any] = {"context": 20, "quiet": True}

Folder = Callable[[str], Path]
Load = Callable[..., Any]


@pytest.fixture
def load(tiny_folder: Folder) -> Load:
    """`load("llama")`: a fresh copy of that family's model, as a user loads it."""

    def loaded(family: str = "llama", **settings: Any) -> Any:
        folder = tiny_folder(family)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **settings).eval()

    return loaded


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def command(*words: object) -> None:
    done = CliRunner().invoke(main, ["run", *map(str, words)])
    assert done.exit_code == 0, done.output


def only_run(root: Path) -> Run:
    (run,) = open_store(root).runs.values()
    return run


def tokenizer_of(model: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)


# --- the command's plan and bytes ---


def test_a_name_gives_the_run_and_the_bytes_of_the_command(
    tiny_folder: Folder, corpus_file: Path, tmp_path: Path
) -> None:
    folder = tiny_folder("qwen2")
    options = ("--prompts", 9, "--min-bytes", 0, "--context", 20, "--sites", "final,block.*")
    command("--model", folder, "--corpus", corpus_file, "--store", tmp_path / "of-command", *options)
    run = capture(
        folder,
        corpus_file,
        store=tmp_path / "of-python",
        prompts=np.int64(9),
        min_bytes=0,
        sites=("final", "block.*"),
        **SETTINGS,
    )
    expected = only_run(tmp_path / "of-command")
    assert isinstance(run, Run)
    assert (run.id, run.missing_shards) == (expected.id, [])
    assert run.plan.prompts.count == 9
    assert stored_objects(run) == stored_objects(expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_gives_the_run_and_the_bytes_of_the_command(
    load: Load, family: str, dtype: str, tiny_folder: Folder, corpus_file: Path, tmp_path: Path
) -> None:
    options = ("--prompts", 12, "--min-bytes", 0, "--context", 20, "--dtype", dtype)
    words = ("--model", tiny_folder(family), "--corpus", corpus_file, *options)
    command(*words, "--store", tmp_path / "of-command")
    model = load(family, dtype=getattr(torch, dtype))
    run = capture(
        model,
        tokenizer_of(model),
        str(corpus_file),
        store=tmp_path / "of-python",
        prompts=12,
        min_bytes=0,
        **SETTINGS,
    )
    expected = only_run(tmp_path / "of-command")
    assert run.plan == expected.plan
    assert run.id == expected.id
    assert stored_objects(run) == stored_objects(expected)


def test_a_model_of_the_hubs_cache_has_its_name_and_commit(
    load: Load, tmp_path: Path, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--lab--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(tiny_folder("llama"))
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = load()
    tokenizer = tokenizer_of(model)
    model.config._name_or_path, model.config._commit_hash = "lab/tiny", commit
    plan = capture(model, tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS).plan
    folder = capture(load(), tokenizer, TEXTS, store=tmp_path / "t", **SETTINGS).plan
    assert (plan.model.id, plan.model.source, plan.model.revision) == ("lab/tiny", "hub", commit)
    assert plan.model.weights == folder.model.weights


def test_the_same_call_computes_nothing_again(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, calls = load(), itertools.count()
    first = capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    before = stored_objects(first)
    with model.model.register_forward_hook(lambda *_: next(calls)):
        with pytest.raises(InputError, match="forward hook"):
            capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    again = capture(load(), tiny_tokenizer, iter(TEXTS), store=tmp_path / "s", **SETTINGS)
    assert again.id == first.id
    assert stored_objects(again) == before


# --- what a model is known by ---


def changed_weight(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1


def cast_norm(model: Any) -> None:
    model.model.norm.to(torch.float64)


def other_epsilon(model: Any) -> None:
    model.model.norm.variance_epsilon = 1e-3


def other_rotation(model: Any) -> None:
    model.model.rotary_emb.inv_freq *= 2


def untied_name(model: Any) -> None:
    model.config._name_or_path = ""


def scaled_block(model: Any) -> None:
    class Scaled(type(model.model.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) * 2  # type: ignore[no-any-return]

    model.model.layers[0].mlp.__class__ = Scaled


def tied_head(model: Any) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


CHANGES = (changed_weight, cast_norm, other_epsilon, other_rotation, scaled_block, tied_head)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_changed_in_memory_is_another(
    change: Callable[[Any], None], load: Load, tiny_tokenizer: Any
) -> None:
    plain, model, again = load(), load(), load()
    for one in (model, again):
        change(one)
    fingerprints = [weights_of(one, tiny_tokenizer) for one in (plain, model, again)]
    assert fingerprints[1] == fingerprints[2] == state_fingerprint(model)
    assert fingerprints[0] not in (fingerprints[1], state_fingerprint(plain))


def weights_of(model: Any, tokenizer: Any) -> str:
    from lpp.capture.models.load import adopt_model
    from lpp.capture.models.loaded import loaded_model, loaded_spec

    loaded = loaded_model(model, tokenizer)
    return adopt_model(loaded, loaded_spec(loaded)).info.weights


def test_every_change_gives_a_fingerprint_of_its_own(load: Load) -> None:
    found = []
    for change in CHANGES:
        model = load()
        change(model)
        found.append(state_fingerprint(model))
    assert len({*found, state_fingerprint(load())}) == len(CHANGES) + 1


def test_a_changed_model_resumes_in_another_process(
    load: Load, tiny_tokenizer: Any, tiny_folder: Folder, tmp_path: Path
) -> None:
    model = load()
    changed_weight(model)
    run = capture(model, tokenizer_of(model), TEXTS, store=tmp_path / "s", **SETTINGS)
    assert (run.plan.model.id, run.plan.model.source) == ("llama", "folder")
    code = f"""
        import torch, transformers
        from lpp.capture import capture
        model = transformers.AutoModelForCausalLM.from_pretrained({str(tiny_folder("llama"))!r})
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
        tokenizer = transformers.AutoTokenizer.from_pretrained({str(tiny_folder("llama"))!r})
        run = capture(model.eval(), tokenizer, {TEXTS!r}, store={str(tmp_path / "s")!r}, context=20)
        print(run.id)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == run.id
    assert "was complete already" in done.stderr


def test_a_model_without_files_is_called_by_its_name_or_its_class(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model("gpt2")
    ids = [
        capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS, **named).plan.model.id
        for named in ({}, {"name": "mine"})
    ]
    assert ids == ["GPT2LMHeadModel", "mine"]


# --- the caller's model and process ---


def state_of(model: Any) -> Any:
    return (
        [(name, sorted(vars(part))) for name, part in model.named_modules()],
        [
            (len(part._forward_hooks), len(part._forward_pre_hooks), part.training)
            for part in model.modules()
        ],
        [(name, id(weight), weight.requires_grad) for name, weight in model.named_parameters()],
        [(name, id(buffer), buffer.is_inference()) for name, buffer in model.named_buffers()],
        dict(vars(model.config)),
    )


def test_a_loaded_model_is_left_as_it_was(
    load: Load, family: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = load(family)
    model.config.use_cache, model.config.output_hidden_states = True, True
    ids = torch.tensor([[5, 6, 7, 8]])
    model.get_output_embeddings().weight.requires_grad_(False)
    with torch.no_grad():
        logits = model(ids).logits
    before, draws = state_of(model), torch.get_rng_state()
    for settings in ({}, {"context": 10_000}):  # the second is refused after the model was looked at
        try:
            capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", quiet=True, **settings)
        except InputError as error:
            assert "context" in str(error)
        assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.is_grad_enabled()
    assert torch.equal(model(ids).logits, logits)
    model(ids, labels=ids).loss.backward()  # it can still be trained
    assert model.get_input_embeddings().weight.grad is not None
