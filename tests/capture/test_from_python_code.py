"""Code that a notebook has replaced: to `lpp.capture.capture` it is another model."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loaded_models import SETTINGS, TEXTS, Halved, Load
from torch.nn.modules import module as torch_modules
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.llama import modeling_llama

from lpp.capture import capture
from lpp.store import open_store

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


def test_replaced_code_is_another_model_and_the_clean_one_keeps_its_id(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, given = load(), {"store": tmp_path / "s", **SETTINGS}
    clean = capture(model, tiny_tokenizer, TEXTS, **given)
    others = []
    for change in PATCHES:
        with patched(change):
            others.append(capture(model, tiny_tokenizer, TEXTS, **given).id)
        again = capture(model, tiny_tokenizer, TEXTS, **given)
        assert (again.id, again.missing_shards) == (clean.id, ())
    assert clean.id not in others
    assert len({*others}) > 3  # some of the patches halve the same rows
    assert all(open_store(tmp_path / "s").runs[run].missing_shards == () for run in others)


def changed_model(change: Callable[[Any], None], load: Load) -> Any:
    model = load()
    change(model)
    return model


def hooked(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda module, args, output: None)


def scaling_hook(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output / 2)


def replaced_forward(model: Any) -> None:
    model.model.norm.forward = lambda states: states


def other_activation(model: Any) -> None:
    del model.model.layers[0].mlp._modules["act_fn"]
    model.model.layers[0].mlp.act_fn = halved(torch.nn.functional.silu)


def own_module(model: Any) -> None:
    model.model.layers[1].mlp = Halved(model.model.layers[1].mlp).eval()


def module_of_a_notebook(model: Any) -> None:
    class Local(Halved):
        pass

    model.model.layers[1].mlp = Local(model.model.layers[1].mlp).eval()


def test_a_model_with_hooks_or_replaced_modules_is_another(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"store": tmp_path / "s", **SETTINGS}
    changes = (hooked, scaling_hook, replaced_forward, other_activation, own_module)
    models = [load(), *(changed_model(one, load) for one in (*changes, module_of_a_notebook))]
    ids = [capture(model, tiny_tokenizer, TEXTS, **given).id for model in models]
    assert len({*ids}) == len(models)
    again = [capture(model, tiny_tokenizer, TEXTS, **given).id for model in models]
    assert again == ids


def test_code_of_a_model_without_files_counts_too(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, given = tiny_model("gpt2"), {"store": tmp_path / "s", **SETTINGS}
    run = capture(model, tiny_tokenizer, TEXTS, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_gpt2.GPT2MLP, "forward", halved(modeling_gpt2.GPT2MLP.forward))
        assert capture(model, tiny_tokenizer, TEXTS, **given).id != run.id
    assert capture(model, tiny_tokenizer, TEXTS, **given).id == run.id


def test_what_is_written_counts_too(load: Load, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """A cache that forgets changes no prompt, only what follows it."""
    given = {"store": tmp_path / "s", "continue_tokens": 3, **SETTINGS}
    layer = transformers.cache_utils.DynamicLayer

    def forgetful(self: Any, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        found = update(self, keys, values, *args, **kwargs)
        return (found[0], found[1] / 2) if keys.shape[-2] == 1 else found

    update = layer.update
    clean = capture(load(), tiny_tokenizer, TEXTS, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "update", forgetful)
        changed = capture(load(), tiny_tokenizer, TEXTS, **given)
    assert changed.plan.model.weights != clean.plan.model.weights


def test_a_tokenizer_with_another_method_gives_another_run(
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
        assert capture(model, tiny_tokenizer, TEXTS, **given).id != run.id
    assert capture(model, tiny_tokenizer, TEXTS, **given).id == run.id
