"""Finding prompts in the flat batch of a forward pass, by their token ids alone.

A sequence begins where `positions` is 0 and continues while they count up. After the last sequence
there may be padding with arbitrary positions and ids, which may look like a short prompt or like
the end of a longer one. The driver reports which prompts finished, which resolves this
(`recorder`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Found:
    """An awaited prompt in a flat batch."""

    key: bytes
    """Its token ids, `prompt_key`."""
    start: int
    length: int


def prompt_key(ids: Ids) -> bytes:
    """Token ids as bytes: little-endian int32, as the store's digests take them."""
    return ids.astype("<i4", copy=False).tobytes()


def find_prompts(
    ids: Ids, positions: npt.NDArray[np.int64], awaited: Mapping[bytes, int]
) -> list[Found]:
    """Awaited prompts in (T,) flat `ids`, in order, each at most as often as it is awaited.

    awaited: key -> how many times.

    >>> ids, positions = np.array([7, 8, 9, 0], np.int32), np.array([0, 1, 0, 0])
    >>> [f.length for f in find_prompts(ids, positions, {prompt_key(ids[:2]): 1})]
    [2]
    """
    left = dict(awaited)
    lengths = {len(key) // 4 for key in awaited}
    matches = []
    starts = np.flatnonzero(positions == 0)
    ends = np.append(starts, len(ids))[1:]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        counting = positions[start:end] == np.arange(end - start)
        length = end - start if counting.all() else int(counting.argmin())
        key = _longest(ids[start : start + length], left, lengths)
        if key is not None:
            left[key] -= 1
            matches.append(Found(key, start, len(key) // 4))
    return matches


def _longest(ids: Ids, left: Mapping[bytes, int], lengths: Collection[int]) -> bytes | None:
    """The awaited prompt that equals `ids`, or else the longest that `ids` begin with."""
    for length in sorted((n for n in lengths if n <= len(ids)), reverse=True):
        key = prompt_key(ids[:length])
        if left.get(key, 0):
            return key
    return None
