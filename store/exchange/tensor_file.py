"""Files of safetensors, written and read without the package, which has no bfloat16 for NumPy.

https://github.com/huggingface/safetensors#format: 8 bytes with the length of a JSON header, the
header (type, shape and place of each tensor), the bytes of the tensors.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lpp.store.exchange.foreign import check_file, damaged
from lpp.store.format.plan import StoredDtype

_TYPES: Final = {
    **{"BF16": "<u2", "F16": "<f2", "F32": "<f4", "BOOL": "?", "U8": "u1"},
    **{"I32": "<i4", "I64": "<i8", "F8_E4M3": "u1"},
}
"""NumPy's type of each; bfloat16 and float8 as their bits."""

FLOATS: Final[Mapping[StoredDtype, str]] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""Names that the format gives to the types of rows."""

DTYPES: Final = {kind: dtype for dtype, kind in FLOATS.items()}
"""The reverse."""

_UNREADABLE: Final = (
    *(OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
)
"""What a crafted header may raise as it is read."""

_MAX_HEADER: Final = 100 << 20
"""Bytes of a header, at most: the bound of the package itself."""


class Tensor(NamedTuple):
    """A tensor, and its type by the name that the format gives it."""

    kind: str
    values: npt.NDArray[Any]


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file. What was there is replaced."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    arrays = {k: np.ascontiguousarray(t.values, _TYPES[t.kind]) for k, t in tensors.items()}
    for name, array in arrays.items():
        place = [end, end + array.nbytes]
        header[name] = {
            "dtype": tensors[name].kind,
            "shape": list(array.shape),
            "data_offsets": place,
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            array.tofile(file)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped from it. FormatError for a file that is cut off or altered."""
    return read_with_metadata(path)[0]


def read_with_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The same, and the texts that came with them."""
    check_file(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                damaged(path, f"no file of safetensors: a header of {length} of its {size} bytes")
            header = json.loads(file.read(length), object_pairs_hook=_once)
        data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else b""
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor(data, **entry) for name, entry in header.items()}
        if sum(tensor.values.nbytes for tensor in tensors.values()) > len(data):
            damaged(path, "its tensors have more bytes than the file")
        return tensors, {str(k): str(v) for k, v in metadata.items()}
    except _UNREADABLE as error:
        damaged(path, f"cannot be read as safetensors ({error})")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _tensor(data: Any, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    first, end = data_offsets
    numpy = np.dtype(_TYPES[dtype])
    if end - first != math.prod(shape) * numpy.itemsize or not 0 <= first <= end <= len(data):
        raise ValueError(f"a tensor of {shape} {dtype} at bytes {first} to {end} of {len(data)}")
    return Tensor(dtype, np.frombuffer(data[first:end], numpy).reshape(shape))
