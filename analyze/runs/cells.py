"""Which tokens a number is about: a cell is one X(L), whole or with a group of prompts left out."""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lpp.analyze.runs.groups import GROUPS, Groups, Integers, Spans, runs_of, spans

__all__ = ["GROUPS", "Cell", "Integers", "n_tokens"]


class Cell(NamedTuple):
    """The tokens at positions from `first_position` to below `prefix` of the first `n_prompts`.

    Without the prompts of `excluded`: those that another run set aside, a group of the jackknife,
    or both. Empty for the whole cell.
    """

    n_prompts: int
    prefix: int
    excluded: Spans = ()
    first_position: int = 0

    @property
    def whole(self) -> Self:
        """The same prefix and prompts with nothing left out."""
        return self._replace(excluded=())

    def parts(self, groups: Groups) -> list[Self]:
        """The cell with each group left out as well, in turn; none where there are no two groups.

        >>> [part.excluded for part in Cell(n_prompts=7, prefix=10).parts(3)]
        [((0, 2),), ((2, 4),), ((4, 7),)]
        >>> len(Cell(n_prompts=4, prefix=10).parts(10)), Cell(1, 10).parts(10)
        (4, [])
        """
        parts = [self._replace(excluded=group) for group in spans(groups, self.n_prompts)]
        return [part.without(~self.stays) for part in parts] if self.excluded else parts

    def without(self, prompts: npt.NDArray[np.bool_]) -> Self:
        """The cell with further prompts left out, those where (n_prompts,) `prompts` is true.

        >>> Cell(n_prompts=3, prefix=10).without(np.array([True, False, True])).excluded
        ((0, 1), (2, 3))
        """
        return self._replace(excluded=runs_of(~self.stays | prompts))

    @property
    def stays(self) -> npt.NDArray[np.bool_]:
        """(n_prompts,) whether each prompt takes part."""
        mask = np.ones(self.n_prompts, dtype=bool)
        for first, end in self.excluded:
            mask[first:end] = False
        return mask


def n_tokens(lengths: Integers, cell: Cell) -> int:
    """Rows of X(L) for prompts of `lengths` tokens, (P,).

    >>> n_tokens(np.array([5, 2, 9]), Cell(n_prompts=2, prefix=3))
    5
    >>> n_tokens(np.array([5, 2, 9]), Cell(n_prompts=2, prefix=3, first_position=1))
    3
    """
    lengths = lengths[: cell.n_prompts][cell.stays[: len(lengths)]]
    rows = np.minimum(lengths, cell.prefix) - np.minimum(lengths, cell.first_position)
    return int(np.maximum(rows, 0).sum(dtype=np.int64))
