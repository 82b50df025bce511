"""The smallest random model of each class that transformers has for causal language models."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

MODEL_CLASSES: Final = {
    kind: name if isinstance(name, str) else name[0]
    for kind, name in {
        **MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        **MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }.items()
}
"""By model_type: the name of the causal class, or of the one that reads images and text."""

MOST_PARAMETERS: Final = 20_000_000
VOCABULARY: Final = 131
BLOCKS: Final = 4
TOKENS: Final = 40
"""Tokens of the longest prompt that a model is run on."""

_SHARPER: Final = (
    4.0  # random weights are timid: larger ones spread logits, states and errors alike
)

_SIZES: Final[dict[int, str]] = {
    VOCABULARY: "vocab_size unpadded_vocab_size vocab_size_per_layer_input",
    64: (
        "embed_dim out_hidden_size vision_output_dim output_hidden_size hidden_size n_embd"
        " d_model dim_model embedding_size lru_width text_hidden_size adapter_in_dim"
        " adapter_input_size"
    ),
    BLOCKS: (
        "n_layer n_layers num_layers num_hidden_layers encoder_layers decoder_layers n_head"
        " n_heads num_heads num_attention_heads encoder_attention_heads decoder_attention_heads"
        " num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads"
        " conv_kernel num_encoder_layers num_decoder_layers num_encoder_attention_heads"
        " num_decoder_attention_heads linear_num_heads swa_num_attention_heads"
    ),
    2: (
        "depth vision_layers num_global_layers vision_num_hidden_layers temporal_patch_size"
        " num_key_value_heads num_kv_heads multi_query_group_num num_experts_per_tok moe_k"
        " moe_topk num_experts_per_token n_group linear_num_key_heads mamba_expand"
        " swa_num_key_value_heads o_groups num_layers_per_stack layer_group_size"
    ),
    1: ("topk_group first_k_dense_replace mamba_n_groups n_groups num_nextn_predict_layers"),
    96: (
        "intermediate_size ffn_dim n_inner d_ff ffn_hidden_size encoder_ffn_dim decoder_ffn_dim"
        " dim_ff dff dense_intermediate_size shared_intermediate_size"
    ),
    128: "max_position_embeddings n_positions max_seq_len",
    32: (
        "image_size moe_intermediate_size shared_expert_intermediate_size mamba_chunk_size"
        " chunk_size"
    ),
    16: (
        "head_dim kv_lora_rank qk_nope_head_dim v_head_dim mamba_d_head mamba_d_state"
        " mamba_head_dim ssm_state_size state_size linear_key_head_dim linear_value_head_dim"
        " index_head_dim hidden_size_per_layer_input global_head_dim dim_head linear_head_dim"
        " swa_head_dim"
    ),
    24: "q_lora_rank",
    8: (
        "qk_rope_head_dim mamba_n_heads mamba_num_heads index_topk attention_window rotary_dim"
        " o_lora_rank"
    ),
    5: "sliding_window sliding_window_size",
    0: "pad_token_id",
}
_SMALL: Final = {name: size for size, names in _SIZES.items() for name in names.split()}
_SMALL["index_n_heads"] = 24
"""Sparse attention adds up relu scores of its index heads. With two heads many sums are exactly 0,
and which of equal sums `topk` takes depends on the number of keys. Real models have 32 heads or
more."""
_SMALL["bos_token_id"], _SMALL["eos_token_id"], _SMALL["num_nextn_predict_layers"] = 1, 2, 0

_KINDS_OF_BLOCKS: Final = ("layer_types", "layers_block_type", "mlp_layer_types")

_LATENT: Final = {"num_key_value_heads": 4, "head_dim": 8}
"""Latent attention: a key for each head, and the rotated part's width as head_dim."""

_ROPE: Final = {"rope_type": "default", "rope_theta": 10000.0}

_OWN: Final[dict[str, dict[str, Any]]] = {
    **dict.fromkeys(
        (
            *("axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32"),
            *("dots3_note_text", "glm4_moe_lite", "glm_moe_dsa", "kimi_linear", "longcat_flash"),
            *(
                "minicpm3",
                "sarvam_mla",
                "youtu",
                "mistral4",
                "mistral_large4_text",
                "glm5_next_text",
            ),
        ),
        _LATENT,
    ),
    "falcon_h1": {"mamba_d_ssm": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 5},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2},
    "zaya": {"num_experts_per_tok": 1},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "deepseek_v2": {**_LATENT, "num_experts_per_tok": 2, "n_routed_experts": 4},
    "bailing_hybrid": {**_LATENT, "head_dim": 16, "num_expert_group": 2, "n_group": 2},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0}
            for kind in ("full_attention", "sliding_attention")
        }
    },
    "qwen4_exp_text": {
        **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16},
        **{"indexer_budget": 8, "indexer_compress_ratio": 2, "ple_embed_dim": 64},
        **{"ngram_vocab_size_base": 500, "hc_lowrank": 16},
    },
    "minimax_m3_vl_text": {"index_block_size": 4, "index_topk_blocks": 2},
    "moshi": {"audio_vocab_size": 64},
    "git": {
        "vision_config": {
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": 32, "patch_size": 16},
        }
    },
    "phi4_multimodal": {
        "vision_config": {
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": 28, "crop_size": 28},
        },
        "audio_config": {
            **{"hidden_size": 32, "intermediate_size": 48, "num_blocks": 2},
            **{"num_attention_heads": 2, "ext_pw_out_channel": 32, "nemo_conv_channels": 32},
        },
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "reformer": {"axial_pos_embds": False, "is_decoder": True, "attn_layers": ["local"] * 4},
    "dots1": {
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "moe_intermediate_size": 32,
    },
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": 96,
        "activation_sparsity_pattern": [0.0] * BLOCKS,
    },
    "rwkv": {"rescale_every": 2},
    "glm5_next_text": {**_LATENT, "index_kpool": 2},
    "step3p5": {"sliding_window": 5},
    "hy_v4_vl_text": {"rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}},
    **{
        kind: {"rope_parameters": {**_ROPE, "mrope_section": [2, 3, 3]}}
        for kind in (
            *("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "cosmos3_edge_text"),
            *("glm4v_text", "glm_ocr_text", "paddleocr_vl_text"),
        )
    },
    "glm4v_moe_text": {
        "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
    },
    "gemma4_text": {"num_kv_shared_layers": 0},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "xlm": {"n_words": VOCABULARY, "emb_dim": 64},
    "roc_bert": {"shape_vocab_size": 31, "pronunciation_vocab_size": 31},
    "longcat_flash": {
        **_LATENT,
        "num_layers": 2,
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 32,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
}
"""Settings of a family beside those of `_SMALL`."""


class NotBuiltError(Exception):
    """The class has no small model here; its text says why."""


def small_model(model_type: str) -> Any:
    """A random model of at most `MOST_PARAMETERS` parameters, float32, the same in each process."""
    with _explained("no small settings were found for it"):
        config = _config(model_type)
        with torch.device("meta"):
            model = auto_class(model_type).from_config(config)
    size = sum(weight.numel() for weight in model.parameters())
    if size > MOST_PARAMETERS:
        raise NotBuiltError(f"with small settings it still has {size / 1e6:.0f} million parameters")
    torch.manual_seed(sum(map(ord, model_type)))
    # capped attention logits: some releases of transformers choose sdpa, which leaves out the cap
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    with _explained("no small settings were found for it"):
        model = auto_class(model_type).from_config(
            config, dtype=torch.float32, attn_implementation="eager" if capped else None
        )
    for name, weight in model.eval().requires_grad_(False).named_parameters():
        if weight.ndim > 1 and (name.endswith("weight") or "expert" in name):
            weight.mul_(_SHARPER)
        elif name.endswith("bias") and weight.is_floating_point():
            weight.normal_(std=0.1)
    with _explained("it does not run on token ids alone"), torch.no_grad():
        logits = model(torch.arange(3, 3 + TOKENS)[None], use_cache=False).logits
    if not bool(logits.isfinite().any()):
        raise NotBuiltError("its random weights give no finite logit")
    return model


def auto_class(model_type: str) -> Any:
    """What transformers makes a model of this type with."""
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForImageTextToText


def _config(model_type: str) -> Any:
    kind: Any = CONFIG_MAPPING[model_type]
    return kind(**_settings(kind, model_type))


def _settings(kind: Any, model_type: str) -> dict[str, Any]:
    """Small settings of a configuration, and of those within it, which are of other models."""
    usual_config = kind()
    usual = usual_config.to_dict()
    taken = inspect.signature(kind.__init__).parameters.keys() | usual.keys()
    settings: dict[str, Any] = {
        name: size
        for name, size in _SMALL.items()
        if name in taken and not isinstance(usual.get(name), list | dict | type(None))
    }
    for name in _KINDS_OF_BLOCKS:
        if isinstance(kinds := usual.get(name), list) and kinds:
            each = list(dict.fromkeys(kinds))
            settings[name] = [each[k % len(each)] for k in range(BLOCKS)]
    if "is_decoder" in usual:
        settings["is_decoder"] = True
    for name in getattr(kind, "sub_configs", {}):
        part: Any = getattr(usual_config, name, None)
        if hasattr(part, "model_type"):  # of the class AutoConfig names another by its model_type
            settings[name] = {"model_type": part.model_type} | _settings(
                type(part), part.model_type
            )
    return settings | _OWN.get(model_type, {})


@contextmanager
def _explained(why: str) -> Iterator[None]:
    """Any error becomes a NotBuiltError, with `why` or the package that is missing."""
    try:
        yield
    except Exception as error:
        package = re.search(r"requires the (\S+) library", str(error))
        raise NotBuiltError(f"it needs the package {package[1]}" if package else why) from error
