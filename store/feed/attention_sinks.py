"""Attention sinks: positions whose rows are many times longer than all others.

Some models give the first one or two tokens of every prompt activations a hundred times larger
than those of any other token (Xiao et al. 2023, arXiv 2309.17453; Sun et al. 2024,
arXiv 2402.17762). They alone then make the participation ratio about 1.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

SINK_FACTOR: Final = 10.0
"""At a sink, the median length is more than this many times that of all other rows."""


def sink_positions(
    lengths: npt.NDArray[np.float32], factor: float = SINK_FACTOR, /
) -> npt.NDArray[np.int64]:
    """Positions that are sinks, (S,) ascending, of (P, T) Euclidean lengths of the rows of P
    prompts.

    NaN: the prompt is shorter, or the row is not finite. Position p is a sink when the median of
    `lengths[:, p]` exceeds `factor` times the median of all lengths at other positions.

    >>> sink_positions(np.array([[900, 8, 9], [700, 7, np.nan]], dtype=np.float32)).tolist()
    [0]
    """
    there = np.isfinite(lengths)
    counts = there.sum(axis=0)
    ordered = np.sort(lengths[there])
    positions = []
    for p in np.flatnonzero(counts):
        median = np.median(lengths[there[:, p], p])
        others = len(ordered) - int(counts[p])
        # The median of the others is at least this: a cheap test that few positions pass.
        if others == 0 or median <= factor * ordered[(others - 1) // 2]:
            continue
        elsewhere = there.copy()
        elsewhere[:, p] = False
        if median > factor * np.median(lengths[elsewhere]):
            positions.append(int(p))
    return np.array(positions, dtype=np.int64)
