"""Rows of 8 bits a value: an exponent for each row, and float8_e4m3 codes. SPEC.md section 5.

A code is `float8_e4m3fn` of OCP's 8-bit Floating Point Specification: a sign, 4 bits of exponent, 3
of mantissa, 448 at most, NaN but no infinity. The scale of a row is a power of two as in OCP's
Microscaling Formats (E8M0), for the whole row instead of 32 values: the smallest, from 2^-120 on,
with which no value lies beyond 448. So every decoded value is a bfloat16 value exactly, and readers
get the bits of bfloat16 that they know.

A value is off by at most 1/16 of itself if it is larger than 2^-13 of the largest of its row, and
by 2^-17 of the largest otherwise. Dividing by 448 / the largest value would lose a little less and
pack no better; the decoded values would then need 24 bits.
"""

from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import Rows

EXPONENTS: Final = (7, 246)
"""Least and largest exponent of a row: with the bias of 127, scales of 2^-120 to 2^119, with which
every value of every code is a normal or subnormal bfloat16."""

_NAN: Final = 0x7F
_TILE_VALUES: Final = 1 << 17
"""Values that are converted at a time, so that every step works in the cache."""


def _value_of_code() -> npt.NDArray[np.float32]:
    """(256,) the value of each code, without a scale."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.ldexp(mantissa + 8.0 * (exponent > 0), np.maximum(exponent, 1) - 10)
    magnitude[code & _NAN == _NAN] = np.nan
    values: npt.NDArray[np.float32] = np.where(code < 128, magnitude, -magnitude).astype("f4")
    return values


_VALUES: Final = _value_of_code()


def encode_rows(rows: Rows) -> npt.NDArray[np.uint8]:
    """(n, d + 1): the exponent of each row, then the code of each value, to nearest and ties to
    even.

    rows: (n, d) float32, float16 or, as uint16, the bits of bfloat16. The sign of zero stays. NaN
    and infinities become NaN of their sign, and have no part in the scale. What lies beyond 448 *
    2^119 (2.98e38) becomes that. ValueError for another type.
    """
    out = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    step = max(1, _TILE_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if part.dtype == np.float16:
            part = part.astype(np.float32)
        if part.dtype not in (np.uint16, np.float32):
            raise ValueError(f"rows are {part.dtype}, should be uint16, float16 or float32")
        bits = part.view(np.uint16 if part.dtype.itemsize == 2 else np.uint32)
        _encode(bits, out[start : start + step])
    return out


def _encode(bits: npt.NDArray[Any], out: npt.NDArray[np.uint8]) -> None:
    """`encode_rows` of the bits of bfloat16 or float32.

    In the exponent's range of e4m3, its bits are those of the wider type, shifted and with another
    bias. So codes are integer differences, rounded, but for the few values below that range.
    """
    width = 8 * bits.itemsize
    mantissa, integer = width - 9, bits.dtype.type
    dropped = mantissa - 3  # bits
    magnitude = bits & integer((1 << width - 1) - 1)
    infinity, most = 0xFF << mantissa, 0x7F6 << dropped  # 448 * 2^119
    largest = magnitude.max(axis=1)
    not_finite = None
    if (largest > most).any():
        not_finite = magnitude >= infinity
        magnitude = np.where(not_finite, integer(0), np.minimum(magnitude, integer(most)))
        largest = magnitude.max(axis=1)
    # 448 is 1.75 * 2^8: a larger mantissa takes the next exponent
    exponent = (largest.astype(np.int64) + (1 << mantissa - 2) - 1 >> mantissa) - 8
    exponent = np.maximum(exponent, EXPONENTS[0])
    normal = integer(1 << mantissa)
    bias = (exponent - 7 << mantissa).astype(bits.dtype)[:, None]
    small = np.flatnonzero(magnitude < bias + normal)
    code = magnitude - bias
    code += (code >> integer(dropped) & integer(1)) + integer((1 << dropped - 1) - 1)
    code >>= integer(dropped)
    if len(small):  # multiples of 2^-9; eight of them are the least normal code
        value = (magnitude.ravel()[small].astype(np.uint32) << 32 - width).view(np.float32)
        row = small // bits.shape[1]
        code.ravel()[small] = np.rint(np.ldexp(value, 136 - exponent[row])).astype(bits.dtype)
    if not_finite is not None:
        code[not_finite] = _NAN
    code |= bits >> integer(width - 8) & integer(0x80)
    out[:, 0] = exponent
    out[:, 1:] = code


def decode_rows(stored: npt.NDArray[np.uint8], out: npt.NDArray[Any]) -> None:
    """Write the values of (n, d + 1) `stored` to (n, d) `out`: float32, or uint16 for the bits of
    bfloat16. Both hold every value exactly. ValueError for an exponent that no writer gives.
    """
    least, largest = EXPONENTS
    if len(stored) and not least <= stored[:, 0].min() <= stored[:, 0].max() <= largest:
        raise ValueError(f"a row with a scale that is not {least} to {largest}")
    step = max(1, _TILE_VALUES // out.shape[1])
    for start in range(0, len(stored), step):
        part, tile = stored[start : start + step], out[start : start + step]
        values = tile if tile.dtype == np.float32 else np.empty(tile.shape, np.float32)
        np.take(_VALUES, part[:, 1:], out=cast("npt.NDArray[Any]", values), mode="clip")
        values *= np.ldexp(np.float32(1), part[:, :1].astype(np.int32) - 127)
        if values is not tile:
            tile[...] = values.view(np.uint32) >> 16
