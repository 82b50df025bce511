"""Host memory for the rows of a shard: one allocation for each shard in progress.

A GPU copies into page-locked memory at the speed of its bus, while it computes; into other memory
it copies at a fraction of that speed, and the host waits. torch's own allocator of page-locked
memory rounds up to a power of two, up to twice what a shard needs. So ordinary memory is allocated
and then registered with CUDA. A vLLM process that writes the rows shares the memory with this one
through a file in memory, and registers it where it is mapped.
"""

import logging
import mmap
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.models.device import device_module, kind_of

Bytes = npt.NDArray[np.uint8]

_MEMORY: Final = Path("/dev/shm")
_log = logging.getLogger("lpp.capture")


def host_memory(size: int, device: str | torch.device) -> Bytes:
    """(size,) bytes of this process, page-locked if the kind of device copies into such memory
    while the host continues. MemoryError if there is too little.

    The page lock ends when the last array over the bytes is freed.
    """
    how = kind_of(device).page_lock
    if how is None:
        return np.empty(size, np.uint8)
    if how == "allocate":
        allocated: Bytes = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return allocated
    memory = mmap.mmap(-1, max(size, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):  # 512 times fewer pages to lock
        memory.madvise(mmap.MADV_HUGEPAGE)
    array: Bytes = np.frombuffer(memory, np.uint8, size)
    page_lock(array, device)
    return array


def page_lock(memory: Bytes, device: str | torch.device) -> None:
    """Register memory with CUDA until `memory` and the last view of it are freed.

    memory: over a mapping that it owns. If the system refuses (see `ulimit -l`), logs a warning:
    copies are then slower.
    """
    address, runtime = memory.ctypes.data, device_module(device).cudart()
    refused = int(runtime.cudaHostRegister(address, max(len(memory), 1), 0))
    if refused:
        _clear_error(device)
        _log.warning(
            "page-locking %d MB of host memory was refused (CUDA error %d; see `ulimit -l`): "
            "copies from the GPU will be slower",
            len(memory) >> 20,
            refused,
        )
    else:
        # of the array, which is freed before its mapping: a mapping unmaps before it is finalised
        weakref.finalize(memory, _unlock, address, device)


def _unlock(address: int, device: str | torch.device) -> None:
    if int(device_module(device).cudart().cudaHostUnregister(address)):
        _clear_error(device)


def _clear_error(device: str | torch.device) -> None:
    """Clear CUDA's last error in this thread, which the next kernel would raise as its own.

    torch has no call for it, but clears the error when it raises it.
    """
    with suppress(RuntimeError):
        torch.ones(1, device=device)  # launches a kernel


class SharedMemory:
    """Memory that other processes map by the path of its file, while this object exists."""

    def __init__(self, size: int) -> None:
        self.path, self._memory = _new_file(size)
        self.bytes: Bytes = np.frombuffer(self._memory, np.uint8, size)
        self._end = weakref.finalize(self, _unlink, self.path)

    def close(self) -> None:
        """Remove the file's name. Existing mappings stay until they are unmapped."""
        self._end()


def map_shared(path: str) -> Bytes:
    """The memory of a `SharedMemory` of another process."""
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)


def _new_file(size: int) -> tuple[str, mmap.mmap]:
    """A file whose `size` bytes are really allocated: a sparse file could end in a bus error."""
    for folder in (_MEMORY, Path(tempfile.gettempdir())):
        if not folder.is_dir():
            continue
        handle, path = tempfile.mkstemp(prefix="lpp-", dir=folder)
        try:
            os.posix_fallocate(handle, 0, max(size, 1))
            return path, mmap.mmap(handle, 0)
        except OSError:  # /dev/shm of a container may be tiny
            os.unlink(path)
        finally:
            os.close(handle)
    raise MemoryError(f"no room for {size} bytes in {_MEMORY} or {tempfile.gettempdir()}")


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)
