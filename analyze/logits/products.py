"""Logits from rows of `final`: by NumPy, or by torch if it is installed and more exact.

NumPy multiplies in float32 and then rounds the product to the dtype of the head. A model's own
kernel adds in another order, so a product near the middle between two bfloat16 values may be
rounded the other way: ln of the sum of exponentials then differs by some 2e-3 nats. Torch's kernel
for bfloat16 is the one that the model used on a CPU, and reproduces its logits to 2e-5. So torch,
if installed, multiplies on a GPU, and bfloat16 also on a CPU; NumPy does the rest. Torch is never
required, and only this module imports it.
"""

import contextlib
import importlib.util
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from lpp.analyze.numerics.moments import Rows
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import StoredDtype
from lpp.store.shared.logits import Float32, Head

NUMPY = "numpy"
"""The place of products without torch; with torch, the place is a torch device."""


Tile = Callable[[Rows], Iterator[Float32]]
"""Gives the logits of (n, d) rows in order, in (m, V) groups of a few rows, each valid until the
next is requested. It has memory for one user at a time."""

Products = Callable[[int, int], Tile]
"""Makes a tile of at most so many rows, with logits in groups of so many; the last is shorter."""


def place_of(dtype: StoredDtype, *, cluster: bool = False) -> str:
    """Where products with a head of `dtype` are computed here: `NUMPY`, `cpu` or `cuda`.

    cluster: whether tasks of a Ray cluster compute them. These reserve processors and no card: each
    would open a CUDA context of its own and copy both heads to a card that others use.
    """
    if importlib.util.find_spec("torch") is None:
        return NUMPY
    import torch

    if torch.cuda.is_available() and not cluster:
        return "cuda"
    return "cpu" if dtype == "bfloat16" else NUMPY


def check_place(place: str) -> None:
    """Raise MachineError if this machine cannot multiply at `place`, a result of `place_of`."""
    if place == NUMPY:
        return
    if importlib.util.find_spec("torch") is None:
        raise MachineError(
            f"logits are to be computed by torch on {place}, as on the machine of the command, and "
            f"{socket.gethostname()} has no torch. Use machines of one kind, or leave out "
            "--executor ray.",
            kind=ErrorKind.NO_PACKAGE,
        )


def arithmetic_of(place: str, dtype: StoredDtype) -> str:
    """A description of the arithmetic of a place.

    >>> arithmetic_of("numpy", "bfloat16")
    'logits: products in float32 by NumPy, rounded to bfloat16'
    >>> arithmetic_of("cpu", "bfloat16")
    "logits: torch's own kernels for bfloat16, on cpu"
    """
    if place != NUMPY:
        return f"logits: torch's own kernels for {dtype}, on {place}"
    rounded = "" if dtype == "float32" else f", rounded to {dtype}"
    return f"logits: products in float32 by NumPy{rounded}"


def products(head: Head, place: str) -> Products:
    """An object that multiplies with `head` at `place`, a result of `place_of`.

    Torch keeps a copy of the matrix.
    """
    if place == NUMPY:
        return partial(_NumpyTile, head)
    return partial(_TorchTile, _TorchProducts(head, place))


class _NumpyTile:
    """Multiplies all rows of a tile at once, and rounds one group at a time."""

    def __init__(self, head: Head, rows: int, group: int) -> None:
        self._head, self._group = head, group
        self._memory = np.empty((rows, head.vocabulary), np.float32)

    def __call__(self, rows: Rows) -> Iterator[Float32]:
        made = self._memory[: len(rows)]
        self._head.multiply(rows, made)
        for start in range(0, len(rows), self._group):
            part = made[start : start + self._group]
            self._head.finish(part)
            yield part


class _TorchProducts:
    """The last steps of a model as torch computes them, each rounded to the dtype of the head."""

    def __init__(self, head: Head, device: str) -> None:
        import torch

        self.vocabulary, self._steps = head.vocabulary, head.steps
        self._device, self._dtype = device, getattr(torch, head.dtype)
        self._weight = self._tensor(head.weight, head.dtype)
        self._bias = None if head.bias is None else self._tensor(head.bias, head.dtype)

    def multiply(self, rows: Rows) -> Any:
        """(n, V) logits in the memory of this machine, in the dtype of the head."""
        import torch

        z = torch.nn.functional.linear(self._tensor(rows), self._weight, self._bias)
        self._steps.take(z)
        return z.cpu()

    def _tensor(self, values: npt.NDArray[Any], stored: StoredDtype = "float32") -> Any:
        """The values, float32 or as stored, on the device in the dtype of the head."""
        import torch

        if values.dtype == np.uint16 and stored == "bfloat16":
            held = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        else:
            held = torch.from_numpy(np.ascontiguousarray(values))
        return held.to(device=self._device, dtype=self._dtype)


class _TorchTile:
    """Multiplies all rows of a tile at once, and widens one group at a time."""

    def __init__(self, made_by: _TorchProducts, rows: int, group: int) -> None:
        self._made_by = made_by
        self._memory = np.empty((min(rows, group), made_by.vocabulary), np.float32)

    def __call__(self, rows: Rows) -> Iterator[Float32]:
        import torch

        made = self._made_by.multiply(rows)
        group = len(self._memory)
        for start in range(0, len(rows), group):
            buffer = self._memory[: min(group, len(rows) - start)]
            torch.from_numpy(buffer).copy_(made[start : start + group])
            yield buffer


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Limit NumPy and torch to one thread for each product, so that the bits of a tile do not
    depend on the number of tiles in progress.
    """
    torch = sys.modules.get("torch")  # if it is not imported yet, nothing multiplies with it
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
