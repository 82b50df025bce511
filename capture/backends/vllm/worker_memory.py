"""Host memory for rows when vLLM's workers are separate processes.

The driver allocates memory that has a file (`host_memory.SharedMemory`), the first rank maps the
file and writes rows into it, and the file's name is removed at once: however either process ends,
no file remains. Only paths and offsets are sent between the two.
"""

import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.host_memory import Bytes, SharedMemory, map_shared, page_lock
from lpp.capture.models.device import kind_of
from lpp.store.arrays.layout import Rows


@dataclass(frozen=True, slots=True)
class Location:
    """Location of an array in a shared file."""

    path: str
    offset: int
    """Offset in bytes."""
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class _Region:
    path: str
    address: int
    memory: "weakref.ref[Bytes]"
    """Every array over the memory keeps it alive."""


class DriverMemory:
    """The driver's side: allocates memory, and locates arrays in it.

    share: makes the first rank map a path, before it returns.
    """

    def __init__(self, share: Callable[[str], object]) -> None:
        self._share = share
        self._regions: list[_Region] = []

    def allocate(self, size: int) -> Bytes:
        """(size,) bytes that the first rank has mapped. MemoryError if there is too little."""
        shared = SharedMemory(size)
        try:
            self._share(shared.path)
        finally:
            shared.close()
        memory = shared.bytes
        self._regions.append(_Region(shared.path, memory.ctypes.data, weakref.ref(memory)))
        return memory

    def paths(self) -> tuple[str, ...]:
        """Paths of the memory that is still in use here."""
        self._regions = [region for region in self._regions if region.memory() is not None]
        return tuple(region.path for region in self._regions)

    def locations(self, arrays: Mapping[str, Rows]) -> dict[str, Location]:
        """Locations of arrays. Raises ValueError for one that is not in memory of `allocate`."""
        return {name: self._location(name, rows) for name, rows in arrays.items()}

    def _location(self, name: str, rows: Rows) -> Location:
        array: npt.NDArray[Any] = rows
        address = array.ctypes.data
        for region in self._regions:
            memory = region.memory()
            if memory is None or not array.flags.c_contiguous:
                continue
            offset = address - region.address
            if offset >= 0 and offset + array.nbytes <= len(memory):
                return Location(region.path, offset, array.shape, array.dtype.str)
        raise ValueError(f"{name}: these rows lie in memory that no worker shares")


class RankMemory:
    """The first rank's side: maps each file once. device: the device that rows are copied from."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._maps: dict[str, Bytes] = {}

    def map(self, path: str) -> None:
        """Map a file of the driver's; page-locked if rows come from a GPU."""
        memory = map_shared(path)
        if kind_of(self._device).page_lock == "register":
            page_lock(memory, self._device)
        self._maps[path] = memory

    def keep(self, paths: Collection[str]) -> None:
        """Drop the memory that the driver no longer uses."""
        self._maps = {path: memory for path, memory in self._maps.items() if path in paths}

    def arrays(self, locations: Mapping[str, Location]) -> dict[str, Rows]:
        """The arrays at `locations`, over the memory that the driver reads."""
        return {
            name: np.ndarray(at.shape, np.dtype(at.dtype), self._maps[at.path], at.offset)
            for name, at in locations.items()
        }
