"""How much memory the key-value cache takes: what one batch needs.

vLLM keeps nine tenths of a card for it by default, since a server remembers requests. Capture runs
each prompt once, in one step, so that one batch at a time is all that has to fit. A cache that is
too small costs further steps and changes no number.
"""

from math import ceil
from typing import Any, Final

MARGIN: Final = 1.25
"""Times what prompts of the whole context need: shorter ones end in blocks that are not full."""

SPARE_TOKENS: Final = 1024
"""More tokens: kernels may ask for larger blocks than the configuration says, vLLM keeps one back,
and a model with several kinds of attention has one more of each."""


WRITING_BYTES: Final = 4 << 30
"""Most cache on each rank for prompts that are continued, where a batch needs no more. A step
reads all weights whatever the number of prompts, so more prompts at once cost less each; 4 GiB
hold 256 prompts of 270 tokens at 7B with grouped heads."""


def cache_bytes(config: Any, *, writes: bool = False) -> int | None:
    """Bytes of key-value cache on each rank, by a vLLM configuration: for a batch, or, where
    `writes`, for as many prompts as run at once, within `WRITING_BYTES`.

    None for a model that keeps a recurrent state as well, whose size is not known before loading.
    """
    model, scheduler = config.model_config, config.scheduler_config
    if model.is_hybrid or model.is_attention_free or model.has_inner_state:
        return None
    # keys and values; latent attention keeps one vector for both, so this is an upper bound for it
    token = 2 * model.get_num_kv_heads(config.parallel_config) * model.get_head_size()
    token *= model.get_num_layers(config.parallel_config) * model.dtype.itemsize
    prompts = ceil(scheduler.max_num_batched_tokens / model.max_model_len)
    size = _tokens(config, min(scheduler.max_num_seqs, prompts)) * token
    if writes:
        size = max(size, min(_tokens(config, scheduler.max_num_seqs) * token, WRITING_BYTES))
    return int(size)


def _tokens(config: Any, prompts: int) -> int:
    """Tokens of cache for so many prompts of the whole context."""
    block = config.cache_config.block_size or 16
    blocks: int = prompts * (ceil(config.model_config.max_model_len / block) + 1)
    return ceil(MARGIN * blocks * block) + SPARE_TOKENS
