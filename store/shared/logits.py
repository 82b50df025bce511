"""Logits of a stored head: the product with rows of `final`, and the steps after it.

The arithmetic is the model's as far as NumPy can reproduce it. The product is computed in float32
and rounded to the dtype of the head; each later step is computed in float32 and rounded likewise. A
kernel that adds in another order may round a product near the middle of two bfloat16 values the
other way: such a logit differs by one unit in the last place.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.reader import to_float32
from lpp.store.format.plan import StoredDtype
from lpp.store.shared.matrices import Matrix

Float32 = npt.NDArray[np.float32]

EPSILON: Final[dict[StoredDtype, float]] = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
}
"""Relative size of one unit in the last place, at most."""

WIDENED_BYTES: Final = 1 << 30
"""Most bytes in float32 of a matrix that is widened once, when it is opened. A larger one stays as
stored, and is widened one block of columns at a time for every tile of rows, which costs a third of
the product of 256 rows."""

BLOCK_BYTES: Final = 32 << 20
"""Bytes of such a block in float32."""

LOGIT_TILE_BYTES: Final = 128 << 20
"""Bytes of the logits of a tile: 682 rows of 49,152 columns, 128 of 262,144."""

PIECE: Final = 1 << 18
"""Logits that are rounded together, so that they stay in the cache: 1 MiB."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps after the product, in this order; None: the step is left out."""

    divisor: float | None = None
    """z / divisor"""
    scale: float | None = None
    """z * scale"""
    softcap: float | None = None
    """softcap * tanh(z / softcap)"""

    @property
    def operations(self) -> list[tuple[str, tuple[float, ...]]]:
        """Name and constants of each operation, in order; each rounds to the dtype of the head.

        The names are those of functions of NumPy and, with _ behind them, of methods of torch.
        """
        steps = (("divide", self.divisor), ("multiply", self.scale), ("divide", self.softcap))
        scaling = [(name, (number,)) for name, number in steps if number is not None]
        if self.softcap is None:
            return [*scaling]
        return [*scaling, ("tanh", ()), ("multiply", (self.softcap,))]

    def take(self, logits: Any) -> None:
        """Apply the steps to a torch tensor, in place."""
        for name, constants in self.operations:
            getattr(logits, f"{name}_")(*constants)


@dataclass(frozen=True, kw_only=True)
class HeadContent:
    """A head that a backend offers for storing."""

    matrix: Matrix
    steps: Steps = Steps()


class Head:
    """Computes logits from rows of `final`. Opened with `Run.head`.

    The matrix is in memory: as float32 if that takes at most `WIDENED_BYTES`, else as stored.
    """

    def __init__(self, content: HeadContent, *, name: str = "") -> None:
        matrix = content.matrix
        self.name = name
        """Name of its directory under `heads/`."""
        self.dtype = matrix.dtype
        """Dtype of the matrix, and of the logits after each step."""
        self.steps = content.steps
        self.vocabulary, self.width = (int(n) for n in matrix.weight.shape)
        """V, columns of the logits, and d, columns of `final`."""
        self._weight: npt.NDArray[Any] = matrix.weight
        if matrix.weight.size * 4 <= WIDENED_BYTES:
            self._weight = to_float32(matrix.weight)
        self._bias = None if matrix.bias is None else to_float32(matrix.bias)[:, 0]

    def __repr__(self) -> str:
        return f"Head({self.name!r}, {self.vocabulary} x {self.width} {self.dtype})"

    def unrounded(self) -> "Head":
        """The same head with products and steps in float32, which the model itself rounds."""
        head = copy.copy(self)
        head.dtype = "float32"
        return head

    @property
    def weight(self) -> npt.NDArray[Any]:
        """(V, d), as float32 or, if the matrix is large, as stored."""
        return self._weight

    @property
    def bias(self) -> Float32 | None:
        """(V,), added to the products; None if there is no bias."""
        return self._bias

    def logits(self, rows: npt.NDArray[Any], out: Float32 | None = None) -> Float32:
        """The logits of `rows`, (n, V) float32 whose values are those of `dtype`.

        rows: (n, d) of `final`, float32. out: (n, V) float32, C-contiguous, overwritten and
        returned; by default new memory, whose first use costs time. Costs 2 n V d operations in
        float32, on as many threads as NumPy's BLAS has. Raises ValueError for other shapes.
        """
        n = len(rows)
        if rows.shape != (n, self.width):
            raise ValueError(f"rows are {rows.shape}, should be (n, {self.width})")
        if out is None:
            out = np.empty((n, self.vocabulary), np.float32)
        if (
            out.shape != (n, self.vocabulary)
            or out.dtype != np.float32
            or not out.flags.c_contiguous
        ):
            raise ValueError(
                f"out is {out.dtype} {out.shape}, should be float32 {(n, self.vocabulary)}"
            )
        self.multiply(rows, out)
        self.finish(out)
        return out

    def multiply(self, rows: npt.NDArray[Any], out: Float32) -> None:
        """Write the products of (n, d) `rows`, with the bias, to (n, V) `out`, not yet rounded.

        `finish` applies the remaining steps, to all rows or to a few at a time while they are in
        the cache.
        """
        rows = np.ascontiguousarray(rows, np.float32)
        for columns, weight in self._blocks():
            np.matmul(rows, weight.T, out=out[:, columns])
        if self._bias is not None:
            out += self._bias

    def finish(self, products: Float32) -> None:
        """Turn C-contiguous products of `multiply` into logits, in place."""
        flat = products.reshape(-1)
        for start in range(0, flat.size, PIECE):
            self._after_product(flat[start : start + PIECE])

    def tiles(
        self, rows: npt.NDArray[Any], tile_rows: int | None = None
    ) -> Iterator[tuple[slice, Float32]]:
        """The logits of `rows`, one tile at a time: the slice of rows, and their (n, V) logits.

        All tiles use the same memory: each is valid until the next is requested, and may be
        changed. tile_rows: by default as many as `LOGIT_TILE_BYTES` hold.
        """
        step = tile_rows or max(1, LOGIT_TILE_BYTES // (4 * self.vocabulary))
        memory = np.empty((min(step, len(rows)), self.vocabulary), np.float32)
        for start in range(0, len(rows), step):
            tile = slice(start, min(start + step, len(rows)))
            yield tile, self.logits(rows[tile], out=memory[: tile.stop - tile.start])

    def error_bound(self, logits: Float32) -> Float32:
        """Largest possible distance of any logit of a row from the model's own, (n,), for (n, V)
        logits.

        Each rounding may go the other way, by one unit in the last place, and no step enlarges a
        relative difference: roundings times epsilon times the largest magnitude of the row.
        """
        largest = np.abs(logits).max(axis=1, where=np.isfinite(logits), initial=0)
        roundings = 1 + len(self.steps.operations)
        bound: Float32 = largest * np.float32(roundings * EPSILON[self.dtype])
        return bound

    def _blocks(self) -> Iterator[tuple[slice, Float32]]:
        """Columns of the logits, and the rows of the matrix that give them, in float32."""
        if self._weight.dtype == np.float32:
            yield slice(0, self.vocabulary), self._weight
            return
        step = max(1, BLOCK_BYTES // (4 * self.width))
        for start in range(0, self.vocabulary, step):
            columns = slice(start, min(start + step, self.vocabulary))
            yield columns, to_float32(self._weight[columns])

    def _after_product(self, z: Float32) -> None:
        """Round (n,) products, then apply the steps, in place."""
        self._round(z)
        for name, constants in self.steps.operations:
            getattr(np, name)(z, *map(np.float32, constants), out=z)
            self._round(z)

    def _round(self, z: Float32) -> None:
        """Round each value to the nearest value of `dtype`, ties to even, in place."""
        if self.dtype == "bfloat16":
            bits = z.view(np.uint32)
            odd = (bits >> 16) & 1
            bits += odd
            bits += 0x7FFF
            bits &= 0xFFFF0000
        elif self.dtype == "float16":
            with np.errstate(over="ignore"):
                z[...] = z.astype(np.float16)


def entropy_and_log_z(logits: Float32) -> tuple[Float32, Float32]:
    """Entropy of the distribution, and ln of the sum of exp(logit): (n,) float32 each, in nats.

    logits: (n, V) float32. Both in float32 from log-sum-exp, as the columns of `tokens.arrow`.

    >>> entropy, log_z = entropy_and_log_z(np.zeros((1, 8), np.float32))
    >>> bool(np.allclose([entropy[0], log_z[0]], np.log(8)))
    True
    """
    n, vocabulary = logits.shape
    entropy, log_z = np.empty(n, np.float32), np.empty(n, np.float32)
    step = max(1, PIECE // vocabulary)
    for start in range(0, n, step):
        z = logits[start : start + step]
        largest = z.max(axis=1)
        # exp is 0 below: a logit of -inf, which some models give to columns that are not tokens,
        # would give 0 * inf
        shifted = np.maximum(z - largest[:, None], np.float32(-110))
        weights = np.exp(shifted)
        total = weights.sum(axis=1)
        log_total = np.log(total)
        np.multiply(weights, shifted, out=weights)
        entropy[start : start + step] = log_total - weights.sum(axis=1) / total
        log_z[start : start + step] = largest + log_total
    return entropy, log_z


def entropy_factor(vocabulary: int) -> float:
    """Largest possible change of the entropy if no logit changes by more than 1.

    The derivative of the entropy with respect to the logits is -p (ln p + entropy). Its absolute
    sum is at most the root of the varentropy, which is below ln(V) / 2 + 1 (Reeb and Wolf 2015). ln
    of the sum changes by 1 at most.
    """
    return math.log(vocabulary) / 2 + 1
