"""Which rows hold NaN or infinities: the test that every writer makes of every row.

A float is not finite if all bits of its exponent are set. Its bits are then at least those of
infinity: compared as a signed number if the sign bit is clear, as an unsigned one if it is set. So
two maxima over the bits are an exact test of many values. Only if it fails are rows checked one by
one.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import Rows
from lpp.store.arrays.reader import to_float32

_INFINITY: Final[dict[str, tuple[str, int]]] = {
    "uint16": ("int16", 0x7F80),  # the bits of bfloat16
    "float16": ("int16", 0x7C00),
    "float32": ("int32", 0x7F800000),
}
"""Array type -> its bits as signed integers, and those of infinity."""


def all_finite(rows: Rows) -> bool:
    """Whether no value of `rows`, stored as the format has them, is NaN or infinite.

    >>> all_finite(np.array([[0x3F80, 0x7F80]], np.uint16))  # 1 and infinity in bfloat16
    False
    """
    if not rows.size:
        return True
    kind, infinity = _INFINITY[rows.dtype.name]
    signed = np.ascontiguousarray(rows).view(kind)
    sign = 1 << (8 * signed.itemsize - 1)
    return bool(signed.max() < infinity and signed.view(f"u{kind}").max() < infinity | sign)


def rows_not_finite(rows: Rows) -> npt.NDArray[np.int64]:
    """Indices of the rows that hold a value that is not finite, ascending."""
    if all_finite(rows):
        return np.empty(0, np.int64)
    return np.flatnonzero(~np.isfinite(to_float32(rows)).all(axis=1))
