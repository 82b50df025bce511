"""Host memory for shards: registered with CUDA for as long as it is used, shared by its path.

The calls of CUDA are recorded here; a GPU takes them in tests/capture/gpu.
"""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lpp.capture.backends.host_memory import (
    SharedMemory,
    map_shared,
    pinned_memory,
    plain_memory,
)
from lpp.capture.backends.vllm.worker_memory import Location, RankMemory


class Runtime:
    """CUDA's runtime, as far as memory goes: an error stays until a kernel raises it.

    faults: what would corrupt memory or end a process on a machine with a card.
    """

    def __init__(self) -> None:
        self.refused = self.last_error = 0
        self.registered: dict[int, int] = {}
        self.faults: list[str] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        if self.refused:
            self.last_error = self.refused
        elif not mapped(address, size):
            self.faults.append("registered memory that is not mapped")
        else:
            self.registered[address] = size
        return self.refused

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        size = self.registered.pop(address, 0)
        if not size:
            self.last_error = 713  # cudaErrorHostMemoryNotRegistered
            self.faults.append("unregistered what was not registered")
        elif not mapped(address, size):
            self.last_error = 1
            self.faults.append("freed while registered")
        return self.last_error

    def launch(self) -> None:
        """Launch a kernel: as torch does, raise the last error whatever caused it, and clear it."""
        error, self.last_error = self.last_error, 0
        if error:
            raise RuntimeError(f"CUDA error: {error}")


def mapped(address: int, size: int) -> bool:
    """Whether this process has memory at every one of these addresses."""
    with open("/proc/self/maps") as file:
        spans = [[int(n, 16) for n in line.split()[0].split("-")] for line in file]
    for start, end in sorted(spans):
        if start <= address < end:
            size -= end - address
            address = end
    return size <= 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    fake, ones = Runtime(), torch.ones

    def launched(*shape: int, device: str = "cpu") -> torch.Tensor:
        if device == "cuda":
            fake.launch()
        return ones(*shape)

    monkeypatch.setattr(torch, "ones", launched)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    yield fake
    gc.collect()
    assert (fake.registered, fake.faults, fake.last_error) == ({}, [], 0)


@pytest.mark.slow
def test_memory_is_registered_until_the_last_array_over_it_is_gone(runtime: Runtime) -> None:
    memory: Any = pinned_memory(10_000)
    assert runtime.registered == {memory.ctypes.data: 10_000}
    assert memory.ctypes.data % 4096 == 0
    rows = memory[4096:8192].view(np.uint16).reshape(4, 512)
    rows[...] = 7
    del memory
    gc.collect()
    assert len(runtime.registered) == 1
    assert rows.sum() == 7 * 2048
    del rows
    gc.collect()
    assert runtime.registered == {}


@pytest.mark.slow
def test_memory_that_is_not_registered_serves_all_the_same(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.refused = 2
    with caplog.at_level(logging.WARNING, "lpp.capture"):
        memory = pinned_memory(1 << 20)
    memory[...] = 1
    assert "page-locking 1 MB of host memory was refused (CUDA error 2" in caplog.text
    runtime.launch()  # the next kernel is not told of it
    del memory
    gc.collect()  # and nothing is unregistered that never was


@pytest.mark.slow
def test_shared_memory_is_registered_for_as_long_as_a_rank_uses_it(runtime: Runtime) -> None:
    shared = SharedMemory(10_000)
    rank = RankMemory(torch.device("cuda"))
    rank.map(shared.path)
    assert list(runtime.registered.values()) == [10_000]
    (rows,) = rank.arrays({"final": Location(shared.path, 16, (4, 8), "<u2")}).values()
    rows[...] = 9
    assert shared.bytes[16] == 9
    rank.keep([])
    gc.collect()
    assert len(runtime.registered) == 1  # rows are still being copied
    del rows
    gc.collect()
    assert runtime.registered == {}


@pytest.mark.slow
def test_an_error_of_freeing_is_not_the_next_kernels(runtime: Runtime) -> None:
    memory = pinned_memory(10_000)
    runtime.registered.clear()  # as if a library had unregistered it
    del memory
    gc.collect()
    runtime.launch()
    assert runtime.faults.pop() == "unregistered what was not registered"


def test_plain_memory_is_the_processes_own() -> None:
    memory = plain_memory(100)
    memory[...] = 3
    assert (memory.shape, memory.dtype, int(memory.sum())) == ((100,), np.dtype(np.uint8), 300)


@pytest.mark.slow
def test_shared_memory_is_read_by_its_path_and_leaves_no_file() -> None:
    shared = SharedMemory(5000)
    path = Path(shared.path)
    shared.bytes[:4] = [1, 2, 3, 4]
    theirs = map_shared(shared.path)
    assert theirs[:4].tolist() == [1, 2, 3, 4]
    theirs[4] = 5
    assert shared.bytes[4] == 5
    shared.close()
    assert not path.exists()
    assert theirs[:5].tolist() == [1, 2, 3, 4, 5]  # what is mapped stays
    shared = SharedMemory(10)
    path = Path(shared.path)
    del shared
    gc.collect()
    assert not path.exists()
