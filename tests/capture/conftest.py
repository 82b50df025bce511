"""Tiny random models of every family, a tokenizer that fits them, and the packaged real model."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tested_device  # noqa: F401  (before torch is asked for a device)
import torch
import transformers

VOCABULARY = 131  # no power of two, and no multiple of any tile
POSITIONS = 96

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "ffn_dim": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
_FALCON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _SHAPE),
    "qwen2": ("Qwen2Config", _SHAPE),
    "qwen3": ("Qwen3Config", {**_SHAPE, "head_dim": 16}),
    "mistral": ("MistralConfig", {**_SHAPE, "sliding_window": 5}),
    "gemma2": (
        "Gemma2Config",
        {
            **_SHAPE,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 5,
            "final_logit_softcapping": 0.3,  # small, so that it bends a random model's logits
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_SHAPE,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "phi3": ("Phi3Config", _SHAPE),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": POSITIONS,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {k: v for k, v in _SHAPE.items() if k != "num_key_value_heads"},
    ),
    "opt": ("OPTConfig", {**_OPT, "word_embed_proj_dim": 48, "do_layer_norm_before": True}),
    "opt_350m": ("OPTConfig", {**_OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "falcon": ("FalconConfig", {**_FALCON, "alibi": False, "new_decoder_architecture": False}),
    "falcon_new": (
        "FalconConfig",
        {**_FALCON, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "falcon_alibi": ("FalconConfig", {**_FALCON, "alibi": True, "new_decoder_architecture": False}),
}
_SHARPER = 4.0  # random weights are timid: larger ones spread logits, states and errors alike


def _build(family: str) -> Any:
    config_name, settings = FAMILIES[family]
    config = getattr(transformers, config_name)(**settings)
    torch.manual_seed(sorted(FAMILIES).index(family) + 11)
    # capped attention logits: some releases of transformers choose sdpa, which leaves out the cap
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else None
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(_SHARPER)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)
    return model.eval()


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """`tiny_model("llama")`: that family's random float32 model. Shared: leave it unchanged."""
    models: dict[str, Any] = {}

    def build(family: str) -> Any:
        if family not in models:
            models[family] = _build(family)
        return models[family]

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE of `VOCABULARY` entries at most, trained on three sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,  # logits are one column wider than the tokenizer
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [
            "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
            "Capture once, ask anything later: every layer, every prefix, every context.",
            "SPHINX OF BLACK QUARTZ, JUDGE MY VOW 0123456789 times; is it 3 or 4?",
        ],
        trainer,
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="session")
def tiny_folder(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`tiny_folder("llama")`: that family's model folder, weights in safetensors, tokenizer too."""
    folders: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in folders:
            folder = tmp_path_factory.mktemp("models") / family
            tiny_model(family).save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            folders[family] = folder
        return folders[family]

    return save


@pytest.fixture
def load(tiny_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """`load("llama")`: a fresh copy of that family's model, as a user loads it."""

    def loaded(family: str = "llama", **settings: Any) -> Any:
        folder = tiny_folder(family)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **settings).eval()

    return loaded


@pytest.fixture(scope="session")
def packaged() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, a real model, from its wheel."""
    from lpp.capture.models.gguf import packaged_model

    return packaged_model()


@pytest.fixture(scope="session", autouse=True)
def _quiet_transformers() -> None:
    """Progress bars and advice would bury a failing test's own output."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity(logging.ERROR)
