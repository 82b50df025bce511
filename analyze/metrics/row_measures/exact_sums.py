"""Sums that have the same bits in any order, however their terms are divided into parts."""

import numpy as np

from lpp.analyze.numerics.moments import Floats


def split(values: Floats, bound: int, /) -> Floats:
    """Two parts of each value, (2, ...): sums of each part over up to 2^31 values are exact.

    bound: 2^bound is the largest possible |value|. The parts are multiples of 2^(bound - 22) and of
    2^(bound - 45), so no sum of them needs more than 53 bits, and both together are within
    2^(bound - 46) of the value: 1.4e-14 for bound 0. A value that is not finite makes it NaN.

    >>> high, low = split(np.array([1 / 3]), 0)
    >>> high.tolist(), float(high[0] + low[0]) == round(2**45 / 3) / 2**45
    ([0.33333325386047363], True)
    """
    high = np.ldexp(np.rint(np.ldexp(values, 22 - bound)), bound - 22)
    low = np.ldexp(np.rint(np.ldexp(values - high, 45 - bound)), bound - 45)
    return np.stack([high, low])
