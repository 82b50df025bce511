"""Code that a notebook has replaced: `lpp.capture.capture` refuses what no plan describes."""

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from loaded_models import SETTINGS, TEXTS, Halved, Load, tokenizer_of
from stored import only_run
from torch.nn.modules import module as torch_modules
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.llama import modeling_llama

from lpp.capture import capture
from lpp.capture.cli.command import main
from lpp.store.errors import InputError

pytestmark = pytest.mark.slow

Patch = Callable[[pytest.MonkeyPatch], Any]


def halved(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with half of its first result."""

    def half(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        return (found[0] / 2, *found[1:]) if isinstance(found, tuple) else found / 2

    return half


def method_of_a_class(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(modeling_llama.LlamaMLP, "forward", halved(modeling_llama.LlamaMLP.forward))


def method_of_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.nn.Embedding, "forward", halved(torch.nn.Embedding.forward))


def function_of_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.nn.functional, "silu", halved(torch.nn.functional.silu))


def function_of_the_family(patch: pytest.MonkeyPatch) -> None:
    rotate = halved(modeling_llama.apply_rotary_pos_emb)
    patch.setattr(modeling_llama, "apply_rotary_pos_emb", rotate)


def attention(patch: pytest.MonkeyPatch) -> None:
    kernel = halved(ALL_ATTENTION_FUNCTIONS["sdpa"])
    patch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", kernel)


def hook(module: Any, args: Any, output: Any) -> Any:
    return output / 2 if type(module) is modeling_llama.LlamaMLP else None


def pre_hook(module: Any, args: Any) -> Any:
    return (args[0] / 2,) if type(module) is modeling_llama.LlamaMLP else None


@contextlib.contextmanager
def global_hook(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with torch_modules.register_module_forward_hook(hook):
        yield


@contextlib.contextmanager
def global_pre_hook(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with torch_modules.register_module_forward_pre_hook(pre_hook):
        yield


PATCHES: tuple[Patch, ...] = (
    method_of_a_class,
    method_of_torch,
    function_of_torch,
    function_of_the_family,
    attention,
    global_hook,
    global_pre_hook,
)


@contextlib.contextmanager
def patched(change: Patch) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        if (block := change(patch)) is not None:
            stack.enter_context(block)
        yield


def test_replaced_code_is_refused_and_the_clean_model_is_still_the_commands(
    load: Load, tmp_path: Path
) -> None:
    model = load()
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    folder, store = model.config._name_or_path, tmp_path / "s"
    words = ("--prompts", "12", "--min-bytes", "0", "--context", "20", "--store", str(store))
    done = CliRunner().invoke(main, ["run", "--model", folder, "--corpus", str(corpus), *words])
    assert done.exit_code == 0, done.output
    run = only_run(store)
    given: dict[str, Any] = {"store": store, "prompts": 12, "min_bytes": 0, **SETTINGS}
    for change in PATCHES:
        with (
            patched(change),
            pytest.raises(
                InputError, match=r"code of llama was changed.* from (embed|block\.1) on"
            ),
        ):
            capture(model, tokenizer_of(model), str(corpus), **given)
        again = capture(model, tokenizer_of(model), str(corpus), **given)
        assert (again.id, again.missing_shards) == (run.id, ())
    assert only_run(store).id == run.id


def test_code_of_a_model_without_files_is_checked_too(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, given = tiny_model("gpt2"), {"store": tmp_path / "s", **SETTINGS}
    run = capture(model, tiny_tokenizer, TEXTS, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_gpt2.GPT2MLP, "forward", halved(modeling_gpt2.GPT2MLP.forward))
        with pytest.raises(InputError, match="code of GPT2LMHeadModel was changed"):
            capture(model, tiny_tokenizer, TEXTS, **given)
    assert capture(model, tiny_tokenizer, TEXTS, **given).id == run.id
    assert only_run(tmp_path / "s").id == run.id


def test_what_is_written_is_checked_too(load: Load, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """A cache that forgets changes no prompt, only what follows it."""
    given = {"store": tmp_path / "s", "continue_tokens": 3, **SETTINGS}
    layer = transformers.cache_utils.DynamicLayer

    def forgetful(self: Any, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        found = update(self, keys, values, *args, **kwargs)
        return (found[0], found[1] / 2) if keys.shape[-2] == 1 else found

    update = layer.update
    capture(load(), tiny_tokenizer, TEXTS, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "update", forgetful)
        with pytest.raises(InputError, match=r"changed .*from written"):
            capture(load(), tiny_tokenizer, TEXTS, **given)


def test_a_module_of_the_users_own_comes_from_a_file(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    class Local(Halved):
        pass

    given = {"store": tmp_path / "s", **SETTINGS}
    plain = capture(load(), tiny_tokenizer, TEXTS, **given)
    model = load()
    model.model.layers[1].mlp = Halved(model.model.layers[1].mlp).eval()
    ablated = capture(model, tiny_tokenizer, TEXTS, **given)
    assert ablated.plan.model.weights != plain.plan.model.weights
    model.model.layers[1].mlp.__class__ = Local
    with pytest.raises(InputError, match=r"layers\.1\.mlp is Local, .*put it into a file"):
        capture(model, tiny_tokenizer, TEXTS, **given)


def test_what_no_fingerprint_covers_is_refused(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def with_activation(model: Any) -> None:
        model.model.layers[0].mlp.act_fn = None
        del model.model.layers[0].mlp._modules["act_fn"]
        model.model.layers[0].mlp.act_fn = halved(torch.nn.functional.silu)

    def with_tensor(model: Any) -> None:
        model.model.layers[0].mlp.direction = torch.ones(48)

    def with_configuration(model: Any) -> None:
        part = model.model.layers[0].self_attn
        part.config = copy.deepcopy(part.config)
        part.config.rms_norm_eps = 0.5

    for change, named in (
        (with_activation, "layers.0.mlp has act_fn, function"),
        (with_tensor, "layers.0.mlp has direction, Tensor"),
        (with_configuration, "layers.0.self_attn has config, LlamaConfig"),
    ):
        model = load()
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1  # differs from its files
        change(model)
        with pytest.raises(InputError, match=named):
            capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    assert not (tmp_path / "s").exists()


def test_a_replaced_method_of_a_tokenizer_is_refused(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, kind = load(), type(tiny_tokenizer)
    given = {"store": tmp_path / "s", **SETTINGS}
    run = capture(model, tiny_tokenizer, TEXTS, **given)

    def backwards(self: Any, *args: Any, **kwargs: Any) -> Any:
        return {"input_ids": [ids[::-1] for ids in call(self, *args, **kwargs)["input_ids"]]}

    call = kind.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", backwards)
        with pytest.raises(InputError, match=r"code of the tokenizer.* was changed"):
            capture(model, tiny_tokenizer, TEXTS, **given)
    assert capture(model, tiny_tokenizer, TEXTS, **given).id == run.id
    assert only_run(tmp_path / "s").id == run.id
