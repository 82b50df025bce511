"""Logits by shards: taken where they are proven, gathered elsewhere. A rank alone, so no model."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed, nn

from lpp.capture.backends.vllm.installed import silenced
from lpp.capture.backends.vllm.unembedding import find_unembedding

VOCABULARY, PADDED, WIDTH = 11, 16, 4


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Any]:
    """A group of one rank."""
    distributed.init_process_group("gloo", f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


class Unembedded(nn.Module):
    """A model whose unembedding is padded, scaled and capped, with all columns on one rank."""

    def __init__(self, first_column: int = 0) -> None:
        super().__init__()
        self.lm_head = nn.Linear(WIDTH, PADDED, bias=False)
        apply = SimpleNamespace(apply=lambda head, rows, bias: head(rows))
        self.lm_head.quant_method, self.lm_head.tp_size = apply, 1  # type: ignore[assignment]
        self.lm_head.shard_indices = SimpleNamespace(  # type: ignore[assignment]
            padded_org_vocab_start_index=first_column,
            padded_org_vocab_end_index=first_column + PADDED,
        )
        with silenced():  # importing vLLM warns
            from vllm.config import VllmConfig, set_current_vllm_config
            from vllm.model_executor.layers.logits_processor import LogitsProcessor
        with set_current_vllm_config(VllmConfig()):
            self.logits_processor = LogitsProcessor(VOCABULARY, scale=3.0, soft_cap=2.0)

    def compute_logits(self, rows: torch.Tensor) -> Any:
        return self.logits_processor(self.lm_head, rows)


class Direct(Unembedded):
    """A model that makes its logits by itself."""

    def compute_logits(self, rows: torch.Tensor) -> Any:
        return self.lm_head(rows)[:, :VOCABULARY]


def final() -> torch.Tensor:
    return torch.randn(14, WIDTH, generator=torch.Generator().manual_seed(1))


def test_columns_that_are_proven_are_not_gathered(group: Any) -> None:
    model = Unembedded()
    found = find_unembedding(model, final(), VOCABULARY, group)
    assert found.shard is not None
    assert found.shard.columns == range(PADDED)
    out = torch.empty(14, PADDED)
    with torch.inference_mode():
        found.logits(final(), out)
        torch.testing.assert_close(out[:, :VOCABULARY], model.compute_logits(final()))
    assert bool((out[:, VOCABULARY:] == -torch.inf).all())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_columns_of_other_tokens_are_seen_and_logits_gathered(group: Any) -> None:
    assert find_unembedding(Unembedded(first_column=1), final(), VOCABULARY, group).shard is None


def test_a_model_without_vllms_processor_is_gathered(group: Any) -> None:
    assert find_unembedding(Direct(), final(), VOCABULARY, group).shard is None


def test_one_rank_has_every_column(group: Any) -> None:
    assert find_unembedding(Unembedded(), final(), VOCABULARY, None).shard is None
