"""Which prompts hold NaN or infinities, and where in depth that begins.

Every row of every backend is checked: on a GPU during the forward pass, elsewhere in each chunk
just before it is compressed, while the chunk is in the cache (`lpp.store.arrays.finite`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.capture.plan.backend import Batch
from lpp.store.format.quarantine import NOT_FINITE, OUT_OF_MEMORY, SetAside


def statistics_not_finite(
    batch: Batch, statistics: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.int64]:
    """Flat rows of a batch with a statistic that is not finite, ascending.

    `next_*` of a prompt's last token do not exist and are not checked.
    """
    has_next = batch.next_ids >= 0
    finite: npt.NDArray[Any] = np.ones(len(has_next), np.bool_)
    for name, values in statistics.items():
        if np.issubdtype(values.dtype, np.floating):
            finite &= np.isfinite(values) | (~has_next if name.startswith("next_") else False)
    rows: npt.NDArray[np.int64] = batch.logit_rows[~finite]
    return rows


def set_aside(
    prompt_ids: Sequence[int],
    lengths: Sequence[int],
    failed: Mapping[int, str],
    not_finite: Sequence[tuple[str, npt.NDArray[np.int64]]],
) -> list[SetAside]:
    """The prompts whose rows are not valid, with the first site that is not finite.

    lengths: tokens of each prompt, laid flat one after the other. failed: prompts that did not run
    -> why. not_finite: sites in depth order, then `IN_LOGITS`, each with flat rows, ascending.
    """
    starts = np.cumsum([0, *lengths])
    by_prompt = {
        prompt: SetAside(
            prompt_id=prompt, reason=OUT_OF_MEMORY, site=None, position=None, detail=why
        )
        for prompt, why in failed.items()
    }
    for site, rows in not_finite:
        for index in np.unique(np.searchsorted(starts, rows, side="right") - 1):
            prompt = prompt_ids[index]
            if prompt in by_prompt:
                continue
            inside = rows[(rows >= starts[index]) & (rows < starts[index + 1])]
            by_prompt[prompt] = SetAside(
                prompt_id=prompt,
                reason=NOT_FINITE,
                site=site,
                position=int(inside[0] - starts[index]),
                detail=f"{len(inside)} of {lengths[index]} tokens",
            )
    return list(by_prompt.values())
