"""Random numbers of a feed, and the slots of its buffer that they choose.

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

    def below(self, n: int, count: int) -> Integers:
        """(count,) integers from 0 to n - 1, with repetitions; n is below 2^32.

        Multiplies the upper half of each word by n: no integer is more likely than another by more
        than one part in 2^32 / n.
        """
        upper = self._words.random_raw(count) >> np.uint64(32)
        return (upper * np.uint64(n) >> np.uint64(32)).astype(np.int64)

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """(count,) numbers from 0 up to 1, multiples of 2^-53."""
        upper = self._words.random_raw(count) >> np.uint64(11)
        numbers: npt.NDArray[np.float64] = upper.astype(np.float64) * 2.0**-53
        return numbers


class Slots:
    """Which slots of a buffer hold a row. Rows go into free slots and are drawn from filled ones.

    A draw is a uniform sample without replacement, in random order. It costs time in proportion to
    its own size, not to the size of the buffer.
    """

    def __init__(self, capacity: int) -> None:
        self._slots = np.arange(capacity, dtype=np.int64)  # filled ones first
        self._mark = np.zeros(capacity, np.int64)
        self.filled = 0
        """Slots that hold a row."""

    @property
    def capacity(self) -> int:
        """All slots."""
        return len(self._slots)

    def fill(self, count: int) -> Integers:
        """Take `count` free slots, (count,)."""
        self.filled += count
        return self._slots[self.filled - count : self.filled].copy()

    def held(self) -> Integers:
        """The slots that hold a row, (filled,)."""
        return self._slots[: self.filled]

    def draw(self, count: int, draws: Draws) -> Integers:
        """Free `count` random slots of those filled, (count,), and return them."""
        chosen = self._distinct(count, draws)
        drawn = self._slots[chosen]
        # The drawn slots become the last of the filled ones, and then the first of the free ones.
        rest = self.filled - count
        is_drawn = np.zeros(count, bool)
        is_drawn[chosen[chosen >= rest] - rest] = True
        self._slots[chosen[chosen < rest]] = self._slots[rest : self.filled][~is_drawn]
        self._slots[rest : self.filled] = drawn
        self.filled = rest
        return drawn

    def _distinct(self, count: int, draws: Draws) -> Integers:
        """(count,) distinct integers below `filled`, in random order."""
        if 2 * count >= self.filled:
            return draws.order(self.filled)[:count]
        chosen, number = draws.below(self.filled, count), np.arange(count)
        while True:  # draw again what is there already; few are, and fewer each time
            self._mark[chosen[::-1]] = number[::-1]  # the first of equal ones stays
            repeated = self._mark[chosen] != number
            if not repeated.any():
                return chosen
            chosen[repeated] = draws.below(self.filled, int(repeated.sum()))
