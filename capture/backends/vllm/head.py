"""The head of a model inside vLLM, to be stored: the columns of every rank, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.vllm.unembedding import HeadCall, ungathered
from lpp.capture.models.structure.head import host_matrix, is_plain
from lpp.capture.models.structure.unembedding import agree
from lpp.store.shared.logits import EPSILON, Head, HeadContent, Steps
from lpp.store.shared.matrices import Matrix


@dataclass(frozen=True, kw_only=True)
class RankHead:
    """One rank's part of a head, and the model's output on a few tokens."""

    matrix: Matrix
    """Its columns, without padding."""
    steps: Steps
    final: npt.NDArray[np.float32]
    """(n, d)"""
    logits: npt.NDArray[np.float32] | None
    """(n, V), gathered on the first rank; None on the others."""


@torch.inference_mode()
def rank_head(model: Any, final: torch.Tensor) -> RankHead | str:
    """The part of the head on this rank, or why it cannot be stored. Every rank calls this.

    final: (n, d), some rows of `final`.
    """
    # all ranks compute this together, so it comes before anything that may fail
    gathered = model.compute_logits(final)
    try:
        _, call = ungathered(model, final)
        matrix, steps = _columns(call), _steps(call.processor)
    except Exception as error:  # a custom model may raise any error
        return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return RankHead(
        matrix=matrix,
        steps=steps,
        final=final.float().cpu().numpy(),
        logits=None if gathered is None else gathered.float().cpu().numpy(),
    )


def whole_head(ranks: Sequence[RankHead | str]) -> HeadContent | str:
    """The head of all ranks, in order, if it gives the model's own logits; else why not."""
    heads = [rank for rank in ranks if isinstance(rank, RankHead)]
    if len(heads) < len(ranks):
        return next(rank for rank in ranks if isinstance(rank, str))
    first = heads[0]
    content = HeadContent(matrix=_together([rank.matrix for rank in heads]), steps=first.steps)
    assert first.logits is not None
    made = torch.from_numpy(Head(content).logits(first.final))
    tolerance = max(EPSILON[content.matrix.dtype] / 2, 1e-5)
    if not agree(made, torch.from_numpy(first.logits), tolerance=tolerance):
        return "no plain matrix gives the logits of vLLM's model"
    return content


def _together(parts: Sequence[Matrix]) -> Matrix:
    """The columns of all ranks as one matrix."""
    if len(parts) == 1:
        return parts[0]
    biases: list[Any] = [part.bias for part in parts if part.bias is not None]
    return Matrix(
        dtype=parts[0].dtype,
        weight=np.concatenate([part.weight for part in parts]),
        bias=np.concatenate(biases) if biases else None,
    )


def _columns(call: HeadCall) -> Matrix:
    head, bias = call.head, call.bias
    weight, indices = head.weight, head.shard_indices
    if not is_plain(weight):
        raise ValueError(f"its unembedding is {type(head).__name__} of {weight.dtype}")
    count = indices.org_vocab_end_index - indices.org_vocab_start_index
    return host_matrix(weight[:count], None if bias is None else bias[:count])


def _steps(processor: Any) -> Steps:
    """Steps of vLLM's `LogitsProcessor` after the product: the softcap first, then the scale."""
    scale = None if processor.scale == 1 else float(processor.scale)
    cap = processor.soft_cap
    if scale is not None and cap is not None:
        raise ValueError("its logits are scaled after they are capped")
    return Steps(scale=scale, softcap=None if cap is None else float(cap))
