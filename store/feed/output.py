"""What a feed gives: its rows as arrays of NumPy or tensors of torch, centred and scaled.

Batches are written into memory of earlier ones that nobody holds any more: filling new pages takes
three times as long as gathering the rows.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.reader import to_float32
from lpp.store.errors import InputError
from lpp.store.settings.arguments import check_word

Like: TypeAlias = Literal["torch", "numpy"]
"""Whose arrays a feed gives."""

OutputDtype: TypeAlias = Literal["stored", "float32"]
"""`stored`: as on disk, bfloat16 as torch's bfloat16, or as uint16 in NumPy."""

_MOST_KEPT: Final = 8
"""Batches whose memory is kept for later ones: those that a trainer holds at a time, and one."""


class Recycled:
    """Arrays of one shape and type, used again once nobody else refers to them or to views."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[Any]] = []

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array whose content is undefined."""
        arrays = self._arrays
        for k in range(len(arrays)):
            if _references(arrays, k) == _UNUSED:
                array = arrays[k]
                if array.shape == shape and array.dtype == dtype:
                    return array
        arrays.append(np.empty(shape, dtype))
        del arrays[:-_MOST_KEPT]
        return arrays[-1]


def _references(arrays: Sequence[object], k: int) -> int:
    """References to an array of a list, with that of the list and those of this function."""
    return sys.getrefcount(arrays[k])


_UNUSED: Final = _references([object()], 0)
"""`_references` to what nobody else refers to: interpreters count their own differently."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """How batches are given."""

    like: Like
    dtype: OutputDtype
    is_bfloat16: Sequence[bool]
    """Whether a column holds the bits of bfloat16."""
    stacked: bool
    """Whether the columns are one array (n, columns, width), as for a crosscoder."""
    single: bool
    """Whether there is one column, which is then no tuple."""
    mean: Sequence[npt.NDArray[np.float32]] | None = None
    """(width,) subtracted from the rows of each column."""
    factor: Sequence[float] | None = None
    """By which the rows of each column are then multiplied."""
    _memory: Recycled = field(default_factory=Recycled)

    def columns(self, count: int, like: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Memory for a batch of `count` rows of each of the arrays `like`."""
        return [self._memory.array((count, array.shape[1]), array.dtype) for array in like]

    def of(self, columns: Sequence[npt.NDArray[Any]]) -> Any:
        """A batch of these rows, (n, width) of each column."""
        columns = [self._transformed(k, rows) for k, rows in enumerate(columns)]
        if self.stacked:
            stacked = np.stack(columns, axis=1)
            return given(stacked, self.like, is_bfloat16=all(self.is_bfloat16))
        pairs = zip(columns, self.is_bfloat16, strict=True)
        batch = tuple(given(c, self.like, is_bfloat16=bits) for c, bits in pairs)
        return batch[0] if self.single else batch

    def _transformed(self, k: int, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.dtype == "stored":
            return rows
        out = rows
        if rows.dtype != np.float32:
            out = self._memory.array(rows.shape, np.float32)
            if self.like == "torch":  # in half the time: it widens in one pass over the output
                given(out, "torch").copy_(given(rows, "torch", is_bfloat16=self.is_bfloat16[k]))
            else:
                to_float32(rows, out=out)
        if self.mean is not None:
            np.subtract(out, self.mean[k], out=out)
        if self.factor is not None:
            np.multiply(out, np.float32(self.factor[k]), out=out)
        return out


def given(values: npt.NDArray[Any], like: Like, *, is_bfloat16: bool = False) -> Any:
    """`values` as an array of NumPy or as a tensor of torch, which shares their memory.

    is_bfloat16: whether uint16 are the bits of bfloat16.
    """
    if like == "numpy":
        return values
    import torch

    if is_bfloat16 and values.dtype == np.uint16:  # torch takes them as another 16 bits
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def check_like(like: Like) -> None:
    """InputError for another word, and if torch is requested and cannot be imported."""
    check_word("like", like, Like)
    if like == "torch":
        try:
            import torch  # noqa: F401
        except ImportError:
            raise InputError(
                "torch is not installed here: pip install torch, or feed arrays of NumPy with "
                "like='numpy'."
            ) from None


def worker() -> tuple[int, int]:
    """Number of this worker of torch's DataLoader, and of all of its workers; (0, 1) without."""
    if "torch" not in sys.modules:
        return 0, 1
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
