"""Logits of rows of `final`: by NumPy, or by torch where it is installed and does better.

NumPy multiplies in float32 and rounds the product to the dtype of the head afterwards. A model's
own kernel sums in another order, so a product on the edge between two bfloat16 values may be
rounded the other way: ln of the sum of exponentials then differs by some 2e-3 nats. Torch's kernel
for bfloat16 is the one that a model on a CPU was run with, and gives its logits to 2e-5. So torch,
where it is installed, multiplies on a GPU, and bfloat16 on a CPU too; NumPy does the rest. Torch is
never required, and imported here alone.
"""

import contextlib
import importlib.util
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from lpp.analyze.numerics.moments import Rows
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import StoredDtype
from lpp.store.shared.heads import Float32, Head

NUMPY = "numpy"
"""The place where products are taken without torch; with it, a device of torch's."""


class Tile(Protocol):
    """Memory for the logits of a tile of rows, one user at a time."""

    def logits(self, rows: Rows) -> Iterator[Float32]:
        """The logits of (n, d) `rows` in order, (m, V) of a few rows at a time, each valid until
        the next is asked for.
        """


class Products(Protocol):
    """Computes logits from rows of `final`."""

    def tile(self, rows: int, group: int) -> Tile:
        """A tile of at most so many rows, whose logits come in groups of `group`, the last one
        shorter.
        """


def place_of(dtype: StoredDtype) -> str:
    """Where the products of a head of `dtype` are taken here: `NUMPY`, `cpu` or `cuda`."""
    if importlib.util.find_spec("torch") is None:
        return NUMPY
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "cpu" if dtype == "bfloat16" else NUMPY


def check_place(place: str) -> None:
    """Raise MachineError where this machine cannot multiply at a place of `place_of`."""
    if place == NUMPY:
        return
    here = importlib.util.find_spec("torch") is not None
    if here and place == "cuda":
        import torch

        here = torch.cuda.is_available()
    if not here:
        raise MachineError(
            f"logits are to be computed by torch on {place}, as on the machine of the command, and "
            f"{socket.gethostname()} has no {'torch' if place == 'cpu' else 'such GPU'}. Use "
            "machines of one kind, or leave out --executor ray.",
            kind=ErrorKind.NO_PACKAGE,
        )


def described(place: str, dtype: StoredDtype) -> str:
    """The arithmetic of a place, for people.

    >>> described("numpy", "bfloat16")
    'logits: products in float32 by NumPy, rounded to bfloat16'
    >>> described("cpu", "bfloat16")
    "logits: torch's own kernels for bfloat16, on cpu"
    """
    if place != NUMPY:
        return f"logits: torch's own kernels for {dtype}, on {place}"
    rounded = "" if dtype == "float32" else f", rounded to {dtype}"
    return f"logits: products in float32 by NumPy{rounded}"


def products(head: Head, place: str) -> Products:
    """The object that multiplies with `head` at a place of `place_of`; torch keeps a copy of the
    matrix.
    """
    return _NumpyProducts(head) if place == NUMPY else _TorchProducts(head, place)


@dataclass(frozen=True)
class _NumpyProducts:
    """All rows of a tile are multiplied together, and rounded a group at a time."""

    head: Head

    def tile(self, rows: int, group: int) -> Tile:
        return _NumpyTile(self.head, np.empty((rows, self.head.vocabulary), np.float32), group)


@dataclass(frozen=True)
class _NumpyTile:
    head: Head
    memory: Float32
    group: int

    def logits(self, rows: Rows) -> Iterator[Float32]:
        made = self.memory[: len(rows)]
        self.head.multiply(rows, made)
        for start in range(0, len(rows), self.group):
            some = made[start : start + self.group]
            self.head.finish(some)
            yield some


class _TorchProducts:
    """The last steps of a model as torch takes them, each rounded to the dtype of the head."""

    def __init__(self, head: Head, device: str) -> None:
        import torch

        self.vocabulary, self._steps = head.vocabulary, head.steps
        self._device, self._dtype = device, getattr(torch, head.dtype)
        self._weight = self._tensor(head.weight, head.dtype)
        self._bias = None if head.bias is None else self._tensor(head.bias, head.dtype)

    def tile(self, rows: int, group: int) -> Tile:
        return _TorchTile(self, np.empty((min(rows, group), self.vocabulary), np.float32))

    def multiply(self, rows: Rows) -> Any:
        """(n, V) logits in the memory of this machine, in the dtype of the head."""
        import torch

        z = torch.nn.functional.linear(self._tensor(rows), self._weight, self._bias)
        steps = self._steps
        if steps.divisor is not None:
            z.div_(steps.divisor)
        if steps.scale is not None:
            z.mul_(steps.scale)
        if steps.softcap is not None:
            z.div_(steps.softcap).tanh_().mul_(steps.softcap)
        return z.cpu()

    def _tensor(self, values: npt.NDArray[Any], stored: StoredDtype = "float32") -> Any:
        """The values, float32 or as stored, on the device in the dtype of the head."""
        import torch

        if values.dtype == np.uint16 and stored == "bfloat16":
            held = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        else:
            held = torch.from_numpy(np.ascontiguousarray(values))
        return held.to(device=self._device, dtype=self._dtype)


@dataclass(frozen=True)
class _TorchTile:
    made_by: _TorchProducts
    memory: Float32

    def logits(self, rows: Rows) -> Iterator[Float32]:
        import torch

        made = self.made_by.multiply(rows)
        group = len(self.memory)
        for start in range(0, len(rows), group):
            some = self.memory[: min(group, len(rows) - start)]
            torch.from_numpy(some).copy_(made[start : start + group])
            yield some


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """One thread for each product, NumPy's and torch's, so that the bits of a tile do not depend on
    how many tiles are under way.
    """
    torch = sys.modules.get("torch")  # not there yet: nothing multiplies with it
    with threadpool_limits(1, user_api="blas"):
        if torch is None:
            yield
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
