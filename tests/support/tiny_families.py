"""Tiny random models of 22 families of transformers, dense and mixtures of experts."""

from typing import Any

import torch
import transformers

SHAPE: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE_HEADS: dict[str, Any] = {**SHAPE, "head_dim": 16}
ONE_HEAD_EACH = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
EXPERTS: dict[str, Any] = {
    **SHAPE,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
FALCON: dict[str, Any] = {
    name: SHAPE[name]
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": SHAPE,
    "Qwen2": SHAPE,
    "Qwen3": WIDE_HEADS,
    "Mistral": {**SHAPE, "sliding_window": 5},
    "Gemma": WIDE_HEADS,
    "Gemma2": {**WIDE_HEADS, "query_pre_attn_scalar": 16, "sliding_window": 5},
    "Gemma3Text": {**WIDE_HEADS, "query_pre_attn_scalar": 16, "sliding_window": 5},
    "Phi": SHAPE,
    "Phi3": SHAPE,
    "GPT2": {"vocab_size": 67, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "GPTNeoX": ONE_HEAD_EACH,
    "OPT": {**FALCON, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "Falcon": {**FALCON, "alibi": False, "new_decoder_architecture": False},
    "StableLm": SHAPE,
    "Cohere": SHAPE,
    "Olmo2": SHAPE,
    "Granite": SHAPE,
    "Mixtral": EXPERTS,
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
    "Qwen3Moe": {**EXPERTS, "head_dim": 16},
    "Olmoe": EXPERTS,
    "GptOss": {**EXPERTS, "head_dim": 16, "sliding_window": 5},
}
WITHOUT_SDPA = {"Gemma2", "GptOss"}


def tiny_family(family: str, dtype: torch.dtype, attention: str = "eager") -> Any:
    """A random model of a family, the same in each process."""
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=attention
    )
    return model.eval()
