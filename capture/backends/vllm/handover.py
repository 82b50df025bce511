"""How arrays pass from the process that made them to the one that stores them.

In one process they simply pass. Between processes they pass through a file in memory: pickling
them through a message queue would copy every byte several times. Each slot has one file, which
grows to the largest batch; what was read from it holds until the slot is filled again.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

_ALIGNMENT: Final = 64
_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Handed:
    """Where arrays lie in a shared file: small enough for any message queue."""

    path: str
    layout: dict[str, tuple[int, str, tuple[int, ...]]]
    """Name -> offset in bytes, dtype, shape."""


class Handover(Protocol):
    """The giving side."""

    def give(self, slot: int, arrays: Arrays) -> Any:
        """Something that `Receiver.take` turns into the arrays again."""

    def close(self) -> None:
        """Nothing is given any more."""


class InProcess:
    """Giver and receiver are one process: nothing is copied."""

    def give(self, slot: int, arrays: Arrays) -> Arrays:
        """The arrays themselves."""
        return arrays

    def close(self) -> None:
        """Nothing to do."""


class SharedFile:
    """One copy, into memory that both processes map. Close it: a file that nobody took stays."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[str, mmap.mmap]] = {}

    def give(self, slot: int, arrays: Arrays) -> Handed:
        """Copy `arrays` into the file of `slot`."""
        layout, size = {}, 0
        for name, values in arrays.items():
            layout[name] = (size, values.dtype.str, values.shape)
            size += -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT
        path, memory = self._files.get(slot, ("", None))
        if memory is None or len(memory) < size:
            path, memory = _new_file(size)
            self._files[slot] = (path, memory)
        for name, values in arrays.items():
            place = np.ndarray(values.shape, values.dtype, memory, layout[name][0])
            place[...] = values
        return Handed(path, layout)

    def close(self) -> None:
        """Unlink the files that the receiver did not; it has mapped what it still reads."""
        for path, _ in self._files.values():
            Path(path).unlink(missing_ok=True)


class Receiver:
    """The receiving side of either. Unlinks a file as soon as it is mapped."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[str, mmap.mmap]] = {}

    def take(self, slot: int, given: Any) -> Arrays:
        """The arrays that were given, valid until `slot` is filled again."""
        if not isinstance(given, Handed):
            arrays: Arrays = given
            return arrays
        path, memory = self._files.get(slot, ("", None))
        if memory is None or path != given.path:
            with open(given.path, "r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
            os.unlink(given.path)
            self._files[slot] = (given.path, memory)
        return {
            name: np.ndarray(shape, np.dtype(dtype), memory, offset)
            for name, (offset, dtype, shape) in given.layout.items()
        }


def _new_file(size: int) -> tuple[str, mmap.mmap]:
    """A file of `size` bytes that are really there: a promise would end in a bus error."""
    for folder in (_MEMORY, Path(tempfile.gettempdir())):
        if not folder.is_dir():
            continue
        handle, path = tempfile.mkstemp(prefix="lpp-", dir=folder)
        try:
            os.posix_fallocate(handle, 0, max(size, 1))
            return path, mmap.mmap(handle, 0)
        except OSError:  # a container's memory file system may be tiny
            os.unlink(path)
        finally:
            os.close(handle)
    raise OSError(f"no room for {size} bytes in {_MEMORY} or {tempfile.gettempdir()}")
