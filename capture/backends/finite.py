"""Which prompts of a batch hold NaN or infinities, and where in depth that begins.

Asked of every batch of every backend, beside the forward pass. A float is not finite when all bits
of its exponent are set; shifted by one, so that the sign falls off, such a pattern is as large as
no finite one. So one shift and one maximum over the bits answer for a whole site, exactly, a piece
at a time that stays in the cache. Only what that finds is looked at row by row.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.capture.plan.backend import Captured
from lpp.store.arrays.layout import Rows
from lpp.store.arrays.reader import to_float32
from lpp.store.format.quarantine import LOGITS, NOT_FINITE, OUT_OF_MEMORY, SetAside

_LEAST: Final[dict[str, tuple[str, int]]] = {
    "uint16": ("uint16", 0xFF00),  # the bits of bfloat16
    "float16": ("uint16", 0xF800),
    "float32": ("uint32", 0xFF000000),
}
"""Array type -> its bits as, and the smallest that is not finite once shifted by one."""

_PIECE: Final = 1 << 16
"""Items looked at at once: a quarter of a megabyte at most."""


def all_finite(rows: Rows) -> bool:
    """Whether no value of `rows`, stored as the format has them, is NaN or infinite.

    >>> all_finite(np.array([[0x3F80, 0x7F80]], np.uint16))  # 1 and infinity in bfloat16
    False
    """
    kind, least = _LEAST[rows.dtype.name]
    bits = np.ascontiguousarray(rows).reshape(-1).view(kind)
    shifted = np.empty(min(_PIECE, len(bits)), kind)
    for start in range(0, len(bits), _PIECE):
        piece = bits[start : start + _PIECE]
        if np.left_shift(piece, 1, out=shifted[: len(piece)]).max() >= least:
            return False
    return True


def set_aside(captured: Captured, sites: Sequence[str]) -> list[SetAside]:
    """The prompts of a batch whose rows mean nothing. sites: captured, in depth order."""
    batch = captured.batch
    starts = np.cumsum([0, *batch.lengths])
    found = {
        prompt: SetAside(
            prompt_id=prompt, reason=OUT_OF_MEMORY, site=None, position=None, detail=why
        )
        for prompt, why in captured.failed.items()
    }
    for site, broken in _broken(captured, sites):
        for place in np.unique(np.searchsorted(starts, broken, side="right") - 1):
            prompt = batch.prompt_ids[place]
            inside = broken[(broken >= starts[place]) & (broken < starts[place + 1])]
            if prompt not in found:
                found[prompt] = SetAside(
                    prompt_id=prompt,
                    reason=NOT_FINITE,
                    site=site,
                    position=int(inside[0] - starts[place]),
                    detail=f"{len(inside)} of {batch.lengths[place]} tokens",
                )
        if len(found) == len(batch.prompt_ids):
            break
    return list(found.values())


def _broken(
    captured: Captured, sites: Sequence[str]
) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each site, and the flat rows that are not finite there, ascending; then the logits."""
    if captured.on_device:
        from lpp.capture.backends.torch.device_rows import broken_rows

        yield from broken_rows(captured.on_device, sites)
    for site in sites if not captured.on_device else ():
        rows = captured.hidden[site]
        if not all_finite(rows):
            yield site, np.flatnonzero(~np.isfinite(to_float32(rows)).all(axis=1))
    yield LOGITS, captured.batch.asked[~_finite_statistics(captured)]


def _finite_statistics(captured: Captured) -> npt.NDArray[np.bool_]:
    """(S,) whether every statistic is finite; of a last token what follows it is none."""
    has_next = captured.batch.next_ids >= 0
    finite: npt.NDArray[Any] = np.ones(len(has_next), np.bool_)
    for name, values in captured.statistics.items():
        if np.issubdtype(values.dtype, np.floating):
            finite &= np.isfinite(values) | (~has_next if name.startswith("next_") else False)
    return finite
