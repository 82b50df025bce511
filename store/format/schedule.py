"""How a plan divides prompts: the prefixes of a context, groups of prompts, shards."""

from collections.abc import Sequence
from typing import Final

GROUPS: Final = 10
"""Groups of prompts of a jackknife, by default: nine degrees of freedom, and eleven solves."""

_STEPS: Final = 10
"""Prefixes of a schedule. The paper: ten, evenly spaced."""


def prefix_schedule(context: int) -> tuple[int, ...]:
    """C/10, 2C/10, ..., C in tokens; rounded half up, distinct, ascending, the last one C.

    >>> prefix_schedule(200)
    (20, 40, 60, 80, 100, 120, 140, 160, 180, 200)
    >>> prefix_schedule(5)
    (1, 2, 3, 4, 5)
    """
    steps = (max(1, (2 * context * k + _STEPS) // (2 * _STEPS)) for k in range(1, _STEPS + 1))
    return tuple(sorted(set(steps)))


def group_boundaries(prompts: int, groups: int = GROUPS) -> tuple[int, ...]:
    """Where the groups of a jackknife over `prompts` prompts begin, and where the last one ends.

    Runs of prompts as they lie, sizes differing by one at most; fewer prompts than groups are as
    many groups as prompts.

    >>> group_boundaries(7, 3), group_boundaries(2)
    ((0, 2, 4, 7), (0, 1, 2))
    """
    count = max(1, min(groups, prompts))
    return tuple(sorted({prompts * g // count for g in range(count + 1)}))


def shard_boundaries(lengths: Sequence[int], token_bytes: int, shard_bytes: int) -> tuple[int, ...]:
    """Cut prompts into shards of whole prompts, each at most `shard_bytes` over all its sites.

    lengths: tokens of each prompt. token_bytes: bytes of one token, over all sites. A prompt
    larger than a shard gets one of its own.

    >>> shard_boundaries([3, 3, 3, 9], token_bytes=10, shard_bytes=60)
    (0, 2, 3, 4)
    """
    boundaries, held = [0], 0
    for prompt, length in enumerate(lengths):
        if held and (held + length) * token_bytes > shard_bytes:
            boundaries.append(prompt)
            held = 0
        held += length
    return (*boundaries, len(lengths))
