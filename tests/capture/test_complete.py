"""A model whose files lack weights is refused; one whose weights are tied or packed is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from llama_gguf import llama_gguf, plain_tensors
from safetensors.torch import load_file, save_file

from lpp.capture import capture
from lpp.capture.cli.command import main
from lpp.capture.models import gguf
from lpp.capture.models.complete import beside_packed, check_loaded
from lpp.capture.models.load import describe_model, load_model
from lpp.capture.models.spec import ModelSpec
from lpp.store import open_store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import Kept

Weights = dict[str, torch.Tensor]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def made(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path
) -> Callable[..., Path]:
    """A folder of the tiny Llama whose weights and settings were changed."""

    def make(change: Callable[[Weights], Weights] = dict, **settings: Any) -> Path:
        folder = tmp_path / "model"
        tiny_model("llama").save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
        return folder

    return make


def without(*keys: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: w for key, w in weights.items() if key not in keys}


@pytest.mark.parametrize("by", [load_model, describe_model])
@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        (without("lm_head.weight"), {}, ["lack 1 weight (lm_head.weight)"]),
        (
            lambda weights: {f"module.{key}": w for key, w in weights.items()},
            {},
            ["lack 30 weights (lm_head.weight, model.embed", "30 weights (module.lm_head.weight"],
        ),
        (lambda weights: {**weights, UP: weights[UP][:70]}, {}, [UP, "(70, 48), not (80, 48)"]),
        (lambda weights: weights, {"num_hidden_layers": 4}, ["lack 9 weights (model.layers.3."]),
    ],
    ids=["head", "prefix", "shape", "block"],
)
def test_weights_that_the_files_lack_are_refused_by_name(
    made: Callable[..., Path], by: Any, change: Any, settings: dict[str, Any], says: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        by(ModelSpec(id=str(made(change, **settings))))
    assert caught.value.kind is ErrorKind.UNSUPPORTED_MODEL
    assert all(words in str(caught.value) for words in says)


@pytest.mark.parametrize("by", [load_model, describe_model])
def test_a_shard_that_lacks_a_weight_is_refused(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path, by: Any
) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    tiny_tokenizer.save_pretrained(tmp_path)
    assert by(ModelSpec(id=str(tmp_path))).info.n_blocks == 3
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    file = tmp_path / index["weight_map"].pop(UP)
    save_file(without(UP)(load_file(file)), file, {"format": "pt"})
    for document in (index, {**index, "weight_map": {**index["weight_map"], UP: file.name}}):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match=rf"lack 1 weight \({UP}\)"):
            by(ModelSpec(id=str(tmp_path)))


@pytest.mark.parametrize("by", [load_model, describe_model])
def test_what_is_tied_is_not_missing_and_what_is_left_over_is_said(
    made: Callable[..., Path], by: Any
) -> None:
    heard = Kept()
    by(ModelSpec(id=str(made(without("lm_head.weight"), tie_word_embeddings=True))), progress=heard)
    assert heard.lines == []
    by(ModelSpec(id=str(made(num_hidden_layers=2))), progress=heard)
    (line,) = heard.lines
    assert "9 weights (model.layers.2." in line


def test_a_random_twin_needs_no_weights_and_a_run_of_none_is_refused(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    command = ["run", "--model", str(made(without("lm_head.weight"))), "--corpus", "pydoc"]
    command += ["--store", f"{tmp_path}/store", "--prompts", "2", "--context", "8"]
    for more in ([], ["--part", "0/2"], ["--dry-run"]):
        refused = CliRunner().invoke(main, [*command, *more])
        assert refused.exit_code == 2, refused.output
        assert "lm_head.weight" in refused.output
        assert not (tmp_path / "store").exists()
    done = CliRunner().invoke(main, [*command, "--untrained-seed", "0"])
    assert done.exit_code == 0, done.output
    assert len(open_store(tmp_path / "store").runs) == 1


def test_warnings_of_transformers_about_the_model_are_shown(made: Callable[..., Path]) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "fctor": 3}
    folder, heard = made(rope_parameters=rope), Kept()
    settings = {"temperature": 0.5, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    before = transformers.utils.logging.get_verbosity()
    load_model(ModelSpec(id=str(folder)), progress=heard)
    (line,) = heard.lines
    assert "fctor" in line
    assert transformers.utils.logging.get_verbosity() == before


def test_quantised_files_are_judged_by_module() -> None:
    info = {
        "missing_keys": {"a.up.weight", "a.experts.gate_up", "lm_head.weight"},
        "unexpected_keys": {"a.up.weight_packed", "a.up.scale", "a.experts.0.gate.qweight"},
        "mismatched_keys": {("a.down.weight", (8, 1), (4, 4))},
    }
    with pytest.raises(InputError, match=r"lack 1 weight \(lm_head.weight\)"):
        check_loaded("m", beside_packed(info))
    check_loaded("m", beside_packed({**info, "missing_keys": {"a.up.weight"}}))


def test_a_gguf_file_that_lacks_a_tensor_is_refused_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensors = plain_tensors(8)
    llama_gguf(tmp_path / "whole.gguf", tensors, width=8, heads=2)
    assert load_model(ModelSpec(id=str(tmp_path / "whole.gguf"))).info.logits_width == 11
    whole = list(gguf.cache_folder().iterdir())
    del tensors["blk.0.ffn_up"]
    llama_gguf(tmp_path / "part.gguf", tensors, width=8, heads=2)
    with pytest.raises(InputError, match=r"lack 1 weight \(model.layers.0.mlp.up_proj.weight\)"):
        load_model(ModelSpec(id=str(tmp_path / "part.gguf")))
    assert list(gguf.cache_folder().iterdir()) == whole


BASE = ["lm_head.weight"]


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["causal names", "names of the base class"])
def test_a_model_without_a_head_gives_rows_alone(
    made: Callable[..., Path], tmp_path: Path, prefix: str
) -> None:
    """The rows equal those that the model gives with its head, and no statistic is stored."""
    texts = ["the quick brown fox", "jumps over the lazy dog and runs"]
    how: dict[str, Any] = {"device": "cpu", "quiet": True, "context": 40}
    whole = capture(str(made()), texts, store=tmp_path / "whole", **how)

    def base(weights: Weights) -> Weights:
        kept = without(*BASE)(weights)
        return {key.replace("model.", prefix, 1): weight for key, weight in kept.items()}

    folder = made(base)
    rows: dict[str, Any] = {"store": tmp_path / "rows", **how}
    with pytest.raises(InputError, match="logit_positions="):
        capture(str(folder), texts, **rows)
    run = capture(str(folder), texts, logit_positions="none", **rows)
    assert run.plan.logit_positions == "none"
    assert run.plan.model.n_parameters == whole.plan.model.n_parameters - 131 * 48
    assert [*run.sites] == [*whole.sites]
    for site in run.sites:
        assert np.array_equal(run.array(site)[:], whole.array(site)[:])
    tokens = run.tokens().to_table()
    assert tokens["entropy"].null_count == tokens.num_rows == sum(run.lengths)
    assert not (tmp_path / "rows" / "heads").exists()
    assert run.verify() == []


@pytest.mark.parametrize("options", [{"continue_tokens": 3}, {"keep_head": "yes"}], ids=str)
def test_what_needs_logits_is_refused_without_them(
    made: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    store: dict[str, Any] = {"store": tmp_path / "store", "quiet": True, "context": 40}
    with pytest.raises(InputError, match="logit_positions="):
        capture(str(made()), ["a text"], logit_positions="none", **store, **options)
    assert not (tmp_path / "store").exists()
