"""Random numbers that are the same under every NumPy: of feeds and of targets.

Everything is made of the raw 64-bit words of Philox (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"), keyed by seed, epoch and rank. NumPy keeps these words the same in every
release, and promises that of no distribution, so a feed resumes under another NumPy.
"""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Draws:
    """A stream of random numbers that depends on `key` alone."""

    def __init__(self, *key: int) -> None:
        self._words = np.random.Philox(np.random.SeedSequence(key))

    def order(self, n: int) -> Integers:
        """A random order of 0 to n - 1, (n,)."""
        return np.argsort(self._words.random_raw(n), kind="stable")

    def dealt(self, n: int, hands: int) -> Integers:
        """A random order of 0 to n - 1, (n,), in which `hands` neighbours, and the next so many,
        lie one in each of so many equal parts.
        """
        decks = -(-n // hands)
        words = self._words.random_raw(decks * hands).reshape(decks, hands)
        order = np.argsort(words, axis=1, kind="stable") + hands * np.arange(decks)[:, None]
        flat = order.T.ravel()
        return flat[flat < n]

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """(count,) numbers from 0 up to 1, multiples of 2^-53."""
        upper = self._words.random_raw(count) >> np.uint64(11)
        numbers: npt.NDArray[np.float64] = upper.astype(np.float64) * 2.0**-53
        return numbers
