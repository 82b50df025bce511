"""Matrices of unembeddings in a store, SPEC.md section 10: one directory for each distinct content.

Models that were fine-tuned with a frozen unembedding share its matrix, and so its bytes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.encoder import Encoding, check_rows, chunk_rows, row_chunks
from lpp.store.arrays.layout import NUMPY_DTYPE, ArraySpec, Rows
from lpp.store.arrays.metadata import METADATA_KEY, group_document, metadata_bytes
from lpp.store.committed.commit import Attempt
from lpp.store.errors import FormatError
from lpp.store.format.commit_record import MatrixRecord
from lpp.store.format.documents import document_hash
from lpp.store.format.keys import MATRICES_KEY, MATRIX_KEY
from lpp.store.format.plan import StoredDtype
from lpp.store.objects.protocol import Objects
from lpp.store.shared.directory import SharedDirectory, SharedKind

NAME_DIGITS: Final = 16
"""Digits of the hash that names a shared directory."""

DIMENSIONS: Final = ("vocabulary", "feature")
"""Names of the dimensions of a matrix, for readers such as xarray that need them."""

HASHED_BYTES: Final = 64 << 20
"""Bytes of values that are hashed at a time during verification."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The matrix that multiplies the rows of `final`, and the bias."""

    dtype: StoredDtype
    weight: Rows
    """(V, d) as stored: uint16 holds the bits of bfloat16."""
    bias: Rows | None = None
    """(V, 1)"""

    @property
    def arrays(self) -> dict[str, Rows]:
        """The arrays that exist, by name."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(values.nbytes for values in self.arrays.values())


def array_spec(name: str, dtype: StoredDtype, rows: int, width: int) -> ArraySpec:
    """The array `weight` or `bias` of a matrix with `rows` rows and `width` columns."""
    return ArraySpec(
        name=name,
        rows=rows,
        width=width if name == "weight" else 1,
        data_type=NUMPY_DTYPE[dtype],
        lpp={"matrix": name, "dtype": dtype},
        dimension_names=DIMENSIONS,
    )


def commit_matrix(root: Objects, matrix: Matrix) -> str:
    """Write a matrix unless one with equal content exists; returns the name of its directory.

    Costs a SHA-256 of its values, and their compression if they are written. Raises ValueError for
    arrays that do not fit each other.
    """
    rows, width = matrix.weight.shape
    for name, values in matrix.arrays.items():
        check_rows(array_spec(name, matrix.dtype, rows, width), values)
    hashes = {name: _values_hash(iter([values])) for name, values in matrix.arrays.items()}
    record = MatrixRecord(
        dtype=matrix.dtype,
        rows=rows,
        width=width,
        content=_content(matrix.dtype, rows, width, hashes),
        objects={},
    )

    def write(stage: Attempt) -> None:
        stage.write(f"{MATRIX_KEY}/{METADATA_KEY}", [metadata_bytes(group_document())])
        for name, values in matrix.arrays.items():
            spec = array_spec(name, matrix.dtype, rows, width)
            encoding = Encoding(spec, row_chunks(values, chunk_rows(spec)))
            stage.write(f"{MATRIX_KEY}/{name}/{METADATA_KEY}", [encoding.metadata])
            stage.write(f"{MATRIX_KEY}/{name}/c/0/0", encoding, encoding.records)

    name = record.content[:NAME_DIGITS]
    MATRICES.commit(root, name, record, write)
    return name


def read_matrix(found: SharedDirectory[MatrixRecord]) -> Matrix:
    """The values of a matrix, as stored. Raises FormatError for altered bytes."""
    arrays = {}
    for name in _names(found):
        spec = _spec(found, name)
        with found.array(MATRIX_KEY, spec) as array:
            arrays[name] = array.rows(0, spec.rows)
    return Matrix(dtype=found.record.dtype, weight=arrays["weight"], bias=arrays.get("bias"))


def matrix_problems(found: SharedDirectory[MatrixRecord]) -> Iterator[str]:
    """Problems of a matrix whose bytes are as committed: its name, for one. Reads every value."""
    record = found.record
    if not record.content.startswith(found.directory.place.name):
        yield f"its content is {record.content[:NAME_DIGITS]}, not its name"
        return
    if min(record.rows, record.width) < 1:
        yield f"{record.rows} rows of {record.width} columns"
        return
    try:
        hashes = {name: _values_hash(_blocks(found, name)) for name in _names(found)}
    except FormatError as error:
        yield str(error)
        return
    if _content(record.dtype, record.rows, record.width, hashes) != record.content:
        yield "its values are not those of its content"


MATRICES: Final = SharedKind(folder=MATRICES_KEY, record=MatrixRecord, problems=matrix_problems)


def _names(shared: SharedDirectory[MatrixRecord]) -> list[str]:
    """Names of the arrays that exist; without `weight`, reading raises an error."""
    has_bias = f"{MATRIX_KEY}/bias/{METADATA_KEY}" in shared.record.objects
    return ["weight", *(["bias"] if has_bias else [])]


def _spec(shared: SharedDirectory[MatrixRecord], name: str) -> ArraySpec:
    record = shared.record
    return array_spec(name, record.dtype, record.rows, record.width)


def _blocks(shared: SharedDirectory[MatrixRecord], name: str) -> Iterator[npt.NDArray[Any]]:
    spec = _spec(shared, name)
    step = max(1, HASHED_BYTES // spec.row_bytes)
    with shared.array(MATRIX_KEY, spec) as array:
        array.check()
        for start in range(0, spec.rows, step):
            yield array.rows(start, min(start + step, spec.rows))


def _values_hash(blocks: Iterator[npt.NDArray[Any]]) -> str:
    """SHA-256 of values, little-endian and row by row."""
    digest = hashlib.sha256()
    for block in blocks:
        little = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<"))
        digest.update(little.data.cast("B"))
    return digest.hexdigest()


def _content(dtype: StoredDtype, rows: int, width: int, hashes: dict[str, str]) -> str:
    return document_hash(
        {
            "dtype": dtype,
            "rows": rows,
            "width": width,
            "weight": hashes["weight"],
            "bias": hashes.get("bias"),
        }
    )
