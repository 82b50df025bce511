"""Which tokens a number is about: a cell is one X(L), whole or with a group of prompts left out."""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lpp.store.format.schedule import GROUPS, group_boundaries

__all__ = ["GROUPS", "Cell", "Integers", "n_tokens"]

Integers = npt.NDArray[np.integer]


class Cell(NamedTuple):
    """The tokens at positions from `first_position` to below `prefix` of the first `n_prompts`.

    With `groups`, those prompts are parted into so many groups, and `left_out` is the one that
    takes no part.
    """

    n_prompts: int
    prefix: int
    groups: int = 0
    left_out: int = -1
    first_position: int = 0

    @property
    def whole(self) -> Self:
        """The same prefix and prompts with nothing left out."""
        return self._replace(groups=0, left_out=-1)

    def parts(self, groups: int) -> list[Self]:
        """The cell with each group left out in turn; none where no two prompts are there.

        Fewer prompts than groups are as many groups as prompts.

        >>> len(Cell(n_prompts=4, prefix=10).parts(10)), Cell(1, 10).parts(10)
        (4, [])
        """
        count = min(groups, self.n_prompts)
        if count < 2:
            return []
        return [self._replace(groups=count, left_out=g) for g in range(count)]

    @property
    def gap(self) -> tuple[int, int]:
        """First prompt left out, and the one after the last.

        Groups are runs of prompts as they lie, sizes differing by one at most. Prompts that lie
        side by side may be pieces of one document: they leave together, so that their likeness
        counts as error. And a group is read in one go.

        >>> [part.gap for part in Cell(n_prompts=7, prefix=10).parts(3)]
        [(0, 2), (2, 4), (4, 7)]
        """
        if not self.groups:
            return 0, 0
        edges = group_boundaries(self.n_prompts, self.groups)
        return edges[self.left_out], edges[self.left_out + 1]


def n_tokens(lengths: Integers, cell: Cell) -> int:
    """Rows of X(L) for prompts of `lengths` tokens, (P,).

    >>> n_tokens(np.array([5, 2, 9]), Cell(n_prompts=2, prefix=3))
    5
    >>> n_tokens(np.array([5, 2, 9]), Cell(n_prompts=2, prefix=3, first_position=1))
    3
    """
    first, end = cell.gap
    lengths = lengths[: cell.n_prompts]
    rows = np.minimum(lengths, cell.prefix) - np.minimum(lengths, cell.first_position)
    rows = np.maximum(rows, 0)
    return int(rows.sum(dtype=np.int64) - rows[first:end].sum(dtype=np.int64))
