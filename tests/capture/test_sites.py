"""Sites against what each family itself reports, and padding that never reaches a real token."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lpp.capture.models.structure.anatomy import forward_inputs
from lpp.capture.models.structure.find_sites import check_sites, find_sites
from lpp.capture.models.structure.sites import SiteModules, hooked
from lpp.store.errors import ErrorKind, InputError

LENGTHS = (11, 4, 1, 7)  # longer and shorter than the sliding windows of five


def _ragged(vocabulary: int, seed: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (length,), generator=generator) for length in LENGTHS]


def _captured(model: Any, modules: SiteModules, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), hooked(modules, modules.sites.names, seen.__setitem__):
        model(**forward_inputs(ids))
    return seen


def test_sites_are_the_hidden_states_the_model_reports(
    family: str, tiny_model: Callable[[str], Any]
) -> None:
    model = tiny_model(family)
    modules = find_sites(model)
    assert modules.sites.names == ("embed", "block.1", "block.2", "block.3", "final")
    ids = _ragged(model.config.vocab_size)[0][None]
    seen = _captured(model, modules, ids)
    with torch.no_grad():
        own = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert list(seen) == list(modules.sites.names)
    for name, state in zip(("embed", "block.1", "block.2", "final"), own, strict=True):
        assert torch.equal(seen[name], state), name
        assert state.shape == (1, LENGTHS[0], modules.sites.width(name))
    check_sites(model, modules)


def test_final_is_the_normed_last_block_and_what_the_unembedding_reads(
    family: str, tiny_model: Callable[[str], Any]
) -> None:
    model = tiny_model(family)
    modules = find_sites(model)
    read: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: read.append(args[0])
    )
    try:
        seen = _captured(model, modules, _ragged(model.config.vocab_size)[0][None])
    finally:
        handle.remove()
    assert torch.equal(seen["final"], read[0])
    if family == "opt_350m":  # post-norm, then a projection to the embedding's width
        assert modules.final_norm is None
        assert not modules.sites.final_norm
        assert (modules.sites.hidden_size, modules.sites.final_size) == (48, 32)
        assert torch.equal(seen["final"], model.model.decoder.project_out(seen["block.3"]))
    else:
        assert isinstance(modules.final_norm, nn.Module)
        assert torch.equal(seen["final"], modules.final_norm(seen["block.3"]))
        assert not torch.allclose(seen["final"], seen["block.3"], rtol=0.05)


def test_the_trunk_alone_gives_the_same_sites(
    family: str, tiny_model: Callable[[str], Any]
) -> None:
    model = tiny_model(family)
    modules = find_sites(model)
    ids = _ragged(model.config.vocab_size)[0][None]
    whole = _captured(model, modules, ids)
    alone = _captured(modules.trunk, modules, ids)
    for name in modules.sites.names:
        assert torch.equal(whole[name], alone[name]), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_right_padding_without_a_mask_never_reaches_a_real_token(
    family: str, attention: str, tiny_model: Callable[[str], Any]
) -> None:
    model = tiny_model(family)
    if attention == "sdpa" and not model._supports_sdpa:
        attention = "eager"  # Gemma 2 caps its attention scores, which sdpa cannot
    modules = find_sites(model)
    prompts = _ragged(model.config.vocab_size)
    padded = torch.full((len(prompts), max(LENGTHS)), 7)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    before = model.config._attn_implementation
    model.set_attn_implementation(attention)
    try:
        together = _captured(model, modules, padded)
        for row, prompt in enumerate(prompts):
            alone = _captured(model, modules, prompt[None])
            for name in modules.sites.names:
                real = together[name][row, : len(prompt)]
                scale = alone[name].abs().max()
                assert (real - alone[name][0]).abs().max() <= 1e-5 * scale, (name, row)
    finally:
        model.set_attn_implementation(before)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_the_sliding_window_is_in_force_where_padding_was_tried(
    name: str, tiny_model: Callable[[str], Any]
) -> None:
    """A window of five over three blocks reaches 12 back, full attention all the way."""
    model = tiny_model(name)
    modules = find_sites(model)
    ids = torch.arange(3, 27)[None]
    other = ids.clone()
    other[0, 0] = 90
    first, second = _captured(model, modules, ids), _captured(model, modules, other)
    if name == "mistral":  # every block slides
        assert torch.equal(first["final"][0, 13:], second["final"][0, 13:])
    assert torch.equal(first["block.1"][0, 5:], second["block.1"][0, 5:])
    assert not torch.equal(first["block.1"][0, 4], second["block.1"][0, 4])


def test_hooks_are_gone_afterwards_even_after_an_error(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")

    def hooks() -> int:  # transformers keeps some of its own once hidden states were asked for
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    modules = find_sites(model)

    def fail(name: str, state: torch.Tensor) -> None:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="embed"), hooked(modules, modules.sites.names, fail):
        model(torch.tensor([[3, 4]]))
    assert hooks() == before


def test_only_wanted_sites_reach_the_sink(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("qwen2")
    modules = find_sites(model)
    seen: list[str] = []
    with hooked(modules, ("final", "block.2"), lambda name, state: seen.append(name)):
        model(torch.tensor([[3, 4]]))
    assert seen == ["block.2", "final"]


@pytest.mark.parametrize("name", ["block.0", "block.4", "layer.1", "block.x", "Final"])
def test_an_unknown_site_is_named_with_the_ones_there_are(
    name: str, tiny_model: Callable[[str], Any]
) -> None:
    modules = find_sites(tiny_model("llama"))
    with (
        pytest.raises(
            InputError, match=rf"no site {name}: it has embed, block\.1 to block\.3"
        ) as e,
        hooked(modules, ("final", name), lambda *_: None),
    ):
        pass
    assert e.value.kind is ErrorKind.INVALID_VALUE


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=100, d_model=32, d_ff=40, num_layers=2, num_heads=2, d_kv=16
    )
    return transformers.T5ForConditionalGeneration(config)


def _bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
    )
    return transformers.BertForMaskedLM(config)


def _rwkv() -> nn.Module:
    """It halves its states between blocks."""
    config = transformers.RwkvConfig(
        vocab_size=100, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2
    )
    config.rescale_every = 1
    return transformers.RwkvForCausalLM(config)


@pytest.mark.parametrize(
    ("build", "reason", "branch"),
    [
        (_t5, "encoder-decoder", "block: list of 2 T5Block"),
        (_bert, "its attention is not causal", "layer: list of 2 BertLayer"),
        (_rwkv, "hidden state the model itself reports", "blocks: list of 2 RwkvBlock"),
    ],
)
def test_a_model_it_cannot_map_is_refused_with_its_module_tree(
    build: Callable[[], nn.Module], reason: str, branch: str
) -> None:
    model = build().eval()
    with pytest.raises(InputError, match=reason) as e:
        check_sites(model, find_sites(model))
    assert e.value.kind is ErrorKind.UNSUPPORTED_MODEL
    assert branch in str(e.value)
    assert len(str(e.value).splitlines()) <= 22


def test_a_model_that_looks_ahead_is_refused(tiny_model: Callable[[str], Any]) -> None:
    """Bidirectional attention with the outer shape of Llama: only the causality check can tell."""
    config = tiny_model("llama").config
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.eval()

    def see_everything(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": torch.zeros_like(mask)}

    for block in model.model.layers:
        block.register_forward_pre_hook(see_everything, with_kwargs=True)
    with pytest.raises(InputError, match=r"a later token changes block\.1") as e:
        check_sites(model, find_sites(model))
    assert e.value.kind is ErrorKind.UNSUPPORTED_MODEL


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_reads_padding_is_refused(
    dtype: torch.dtype, tiny_model: Callable[[str], Any]
) -> None:
    """A rule that switches with the length: seven tokens do not tell."""
    model = copy.deepcopy(tiny_model("llama")).to(dtype)
    check_sites(model, find_sites(model))

    def switch(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * 1.5 if output.shape[1] > 8 else output

    model.model.layers[1].register_forward_hook(switch)
    with pytest.raises(InputError, match=r"padding after a prompt changes block\.2") as e:
        check_sites(model, find_sites(model))
    assert e.value.kind is ErrorKind.UNSUPPORTED_MODEL
