"""The prefix schedule of a context: where the metrics are read."""

from typing import Final

STEPS: Final = 10
"""Prefixes of a schedule. The paper: ten, evenly spaced."""


def prefix_schedule(context: int) -> tuple[int, ...]:
    """C/10, 2C/10, ..., C in tokens; rounded half up, distinct, ascending, the last one C.

    >>> prefix_schedule(200)
    (20, 40, 60, 80, 100, 120, 140, 160, 180, 200)
    >>> prefix_schedule(5)
    (1, 2, 3, 4, 5)
    """
    steps = (max(1, (2 * context * k + STEPS) // (2 * STEPS)) for k in range(1, STEPS + 1))
    return tuple(sorted(set(steps)))
