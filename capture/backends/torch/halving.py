"""A batch in two, its halves together again, and what stands for a prompt that cannot run.

For a backend that runs out of memory: a batch is a choice of the plan's, made for speed, and its
halves give the same rows, but for the last bits of a product of another shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.capture.plan.backend import Batch, Captured
from lpp.store.format.tables import STATISTICS, TOKENS_SCHEMA


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first prompts and the rest; a batch of one prompt has no halves."""
    middle = len(batch.lengths) // 2
    return _part(batch, 0, middle), _part(batch, middle, len(batch.lengths))


def _part(batch: Batch, first: int, end: int) -> Batch:
    starts = np.cumsum([0, *batch.lengths])
    start, stop = int(starts[first]), int(starts[end])
    asked = batch.asked[(batch.asked >= start) & (batch.asked < stop)]
    return Batch(
        shard=batch.shard,
        prompt_ids=batch.prompt_ids[first:end],
        lengths=batch.lengths[first:end],
        token_ids=batch.token_ids[start:stop],
        asked=asked - start,
    )


def joined(batch: Batch, parts: Sequence[Captured]) -> Captured:
    """What the halves of `batch` gave, in order, as what the batch gives."""
    failed: dict[int, str] = {}
    for part in parts:
        failed |= part.failed
    return Captured(
        batch=batch,
        hidden=_end_to_end([part.hidden for part in parts]),
        statistics=_end_to_end([part.statistics for part in parts]),
        failed=failed,
        on_device=_tensors_end_to_end([part.on_device for part in parts]),
    )


def _tensors_end_to_end(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same of tensors, on the device of the first part that has any rows there."""
    if not parts[0]:
        return {}
    import torch

    found = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
        found[name] = torch.cat([tensor.to(device) for tensor in tensors])
    return found


def _end_to_end(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def own_copy(captured: Captured) -> Captured:
    """The same in arrays that no later batch overwrites."""
    return joined(captured.batch, [captured])


def without_rows(
    batch: Batch,
    widths: Mapping[str, int],
    dtype: npt.DTypeLike,
    why: str,
    on_device: Mapping[str, Any] | None = None,
) -> Captured:
    """Zeros for every row of a batch that could not run. widths: columns of each site on the host;
    on_device: rows of zeros that stay on theirs.
    """
    tokens, asked = len(batch.token_ids), len(batch.asked)
    return Captured(
        batch=batch,
        on_device=on_device or {},
        hidden={site: np.zeros((tokens, width), dtype) for site, width in widths.items()},
        statistics={
            name: np.zeros(asked, TOKENS_SCHEMA.field(name).type.to_pandas_dtype())
            for name in STATISTICS
        },
        failed=dict.fromkeys(batch.prompt_ids, why),
    )
