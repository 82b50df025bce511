"""Models inside a real vLLM on the CPU: the packaged one, and a tiny one of each family."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from causal_classes import auto_class
from served import Served, serve

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]  # `make test-vllm` has an environment of its own for these

WIDE: dict[str, Any] = {  # vLLM's kernels want heads of 32 or wider
    "vocab_size": 131,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", WIDE),
    "mistral": ("MistralConfig", {**WIDE, "sliding_window": 5}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **WIDE,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 131,
            "n_embd": 128,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 96,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "wrapped_qwen3_vl": (  # three rows of positions
        "Qwen3VLConfig",
        {
            "text_config": {
                **WIDE,
                "head_dim": 32,
                "rope_parameters": {
                    **{"rope_type": "default", "rope_theta": 10000.0},
                    "mrope_section": [6, 5, 5],
                },
            },
            "vision_config": {  # as many blocks as the text model
                **{"hidden_size": 64, "intermediate_size": 96, "depth": 3, "num_heads": 2},
                **{"out_hidden_size": 128, "deepstack_visual_indexes": [0]},
            },
        },
    ),
    "wrapped_gemma3": (  # its text model alone runs
        "Gemma3Config",
        {
            "text_config": {**WIDE, "head_dim": 32, "query_pre_attn_scalar": 32},
            "vision_config": {
                **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
                **{"num_attention_heads": 2, "image_size": 32, "patch_size": 16},
            },
            "mm_tokens_per_image": 4,
        },
    ),
}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "wrapped_mistral3": (
        "Mistral3Config",
        {
            "text_config": {"model_type": "mistral", **WIDE, "head_dim": 32},
            "vision_config": {
                **{"model_type": "pixtral", "hidden_size": 64, "intermediate_size": 96},
                **{"num_hidden_layers": 3, "num_attention_heads": 2, "head_dim": 32},
                **{"image_size": 32, "patch_size": 16},
            },
        },
    ),
    "gpt_neox": (  # vLLM runs transformers' class
        "GPTNeoXConfig",
        {name: size for name, size in WIDE.items() if name != "num_key_value_heads"},
    ),
    "vipllava": (
        "VipLlavaConfig",
        {
            "text_config": {"model_type": "llama", **WIDE},
            "vision_config": {
                **{"model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 96},
                **{"num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 32},
                **{"image_size": 32, "patch_size": 16},
            },
            "vision_feature_layers": [-2, -1],
        },
    ),
}
"""Without the whole contract, which takes minutes for each family."""


def pytest_configure(config: pytest.Config) -> None:
    """VLLM and what it imports warn of their own affairs; our code still may not."""
    for line in (
        "ignore::FutureWarning:vllm.*",
        "ignore::DeprecationWarning:vllm.*",
        "ignore::UserWarning:vllm.*",
        "ignore:builtin type .* has no __module__ attribute:DeprecationWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def wide_folder(
    tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`wide_folder("qwen2")`: a random float32 model that vLLM's kernels can run."""
    folders: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in folders:
            name, settings = (FAMILIES | OTHERS)[family]
            torch.manual_seed(sorted(FAMILIES | OTHERS).index(family) + 5)
            config = getattr(transformers, name)(**settings)
            model = auto_class(config.model_type).from_config(config, dtype=torch.float32)
            with torch.no_grad():
                for key, weight in model.named_parameters():
                    if weight.ndim > 1:
                        weight.mul_(4.0)  # random weights are timid
                    elif key.endswith("bias"):
                        weight.normal_(std=0.1)
            folder = tmp_path_factory.mktemp("wide") / family
            model.save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            folders[family] = folder
        return folders[family]

    return save


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def served(request: pytest.FixtureRequest, wide_folder: Callable[[str], Path]) -> Iterator[Served]:
    """Each family in turn inside vLLM."""
    yield from serve(wide_folder(request.param), request.param)
