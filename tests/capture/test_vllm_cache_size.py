"""How much key-value cache vLLM is given, by hand; that it is enough, the tests inside vLLM say."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lpp.capture.backends.vllm.cache_size import cache_bytes


def config(*, ranks: int = 1, context: int = 200, tokens: int = 16384, **kind: bool) -> Any:
    """A model of 28 layers with 4 key-value heads of 128 in bfloat16, as vLLM describes it."""
    model = SimpleNamespace(
        is_hybrid=False,
        is_attention_free=False,
        has_inner_state=False,
        dtype=torch.bfloat16,
        max_model_len=context + 1,
        get_num_kv_heads=lambda parallel: 4 // parallel.tensor_parallel_size,
        get_head_size=lambda: 128,
        get_num_layers=lambda parallel: 28,
    )
    vars(model).update(kind)
    return SimpleNamespace(
        model_config=model,
        scheduler_config=SimpleNamespace(max_num_seqs=256, max_num_batched_tokens=tokens),
        cache_config=SimpleNamespace(block_size=16),
        parallel_config=SimpleNamespace(tensor_parallel_size=ranks),
    )


def test_a_cache_for_the_prompts_of_one_batch() -> None:
    # 82 prompts of 201 tokens, 13 blocks and one each; a quarter and 1,024 tokens more
    tokens = 82 * 14 * 16 * 5 // 4 + 1024
    assert cache_bytes(config()) == tokens * 2 * 4 * 128 * 28 * 2
    assert tokens > 16384


def test_ranks_share_the_heads() -> None:
    whole, half = cache_bytes(config()), cache_bytes(config(ranks=2))
    assert whole is not None
    assert half == whole // 2


@pytest.mark.parametrize("context", [1, 14, 200, 8000])
@pytest.mark.parametrize("block", [16, 128, 256])
def test_one_prompt_fits_whatever_the_blocks_of_the_kernels(context: int, block: int) -> None:
    size = cache_bytes(config(context=context, tokens=context + 1))
    assert size is not None
    blocks = size // (2 * 4 * 128 * 28 * 2) // block
    assert blocks >= -(-(context + 1) // block) + 1  # and the one that vLLM keeps back


@pytest.mark.parametrize("kind", ["is_hybrid", "is_attention_free", "has_inner_state"])
def test_a_recurrent_state_is_left_to_vllm(kind: str) -> None:
    assert cache_bytes(config(**{kind: True})) is None
