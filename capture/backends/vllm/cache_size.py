"""Size of the key-value cache: what one batch needs.

By default vLLM uses nine tenths of a card for it, because a server keeps earlier requests. Capture
runs each prompt once, in one step, so the cache only has to hold one batch at a time. If it is too
small, there are more steps and the same numbers.
"""

from math import ceil
from typing import Any, Final

MARGIN: Final = 1.25
"""Factor on what prompts of the whole context need: shorter prompts end in partly filled blocks."""

SPARE_TOKENS: Final = 1024
"""Additional tokens: kernels may need larger blocks than the configuration says, vLLM reserves one,
and a model with several kinds of attention has one more for each."""


WRITING_BYTES: Final = 4 << 30
"""Most cache on each rank for prompts that are continued, unless a batch needs more. A step reads
all weights whatever the number of prompts, so with more prompts at once each costs less; 4 GiB hold
256 prompts of 270 tokens at 7B with grouped heads."""


def cache_bytes(config: Any, *, writes: bool = False) -> int | None:
    """Bytes of key-value cache on each rank, from a vLLM configuration.

    They hold one batch or, with `writes`, as many prompts as run at once, within `WRITING_BYTES`.
    None for a model that also stores a recurrent state, whose size is unknown before loading.
    """
    model, scheduler = config.model_config, config.scheduler_config
    if model.is_hybrid or model.is_attention_free or model.has_inner_state:
        return None
    # keys and values; latent attention stores one vector for both, so this is an upper bound
    token = 2 * model.get_num_kv_heads(config.parallel_config) * model.get_head_size()
    token *= model.get_num_layers(config.parallel_config) * model.dtype.itemsize
    prompts = ceil(scheduler.max_num_batched_tokens / model.max_model_len)
    size = _tokens(config, min(scheduler.max_num_seqs, prompts)) * token
    if writes:
        size = max(size, min(_tokens(config, scheduler.max_num_seqs) * token, WRITING_BYTES))
    return int(size)


def _tokens(config: Any, prompts: int) -> int:
    """Tokens of cache for `prompts` prompts of the whole context."""
    block = config.cache_config.block_size or 16
    blocks: int = prompts * (ceil(config.model_config.max_model_len / block) + 1)
    return ceil(MARGIN * blocks * block) + SPARE_TOKENS
