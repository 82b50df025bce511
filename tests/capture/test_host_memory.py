"""Host memory for shards: registered with CUDA for as long as it is used, shared by its path.

The calls of CUDA are recorded here; a GPU takes them in tests/capture/gpu.
"""

import gc
import logging
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


class Runtime:
    """What `torch.cuda.cudart` gives, as far as memory goes."""

    def __init__(self, refused: int = 0) -> None:
        self.refused = refused
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        if not self.refused:
            self.registered[address] = size
        return self.refused

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.registered[address]
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    fake = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    return fake


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
    del memory
    gc.collect()  # and nothing is unregistered that never was


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
    assert theirs[:4] == bytes([1, 2, 3, 4])
    theirs[4] = 5
    assert shared.bytes[4] == 5
    shared.close()
    assert not path.exists()
    assert theirs[:5] == bytes([1, 2, 3, 4, 5])  # what is mapped stays
    shared = SharedMemory(10)
    path = Path(shared.path)
    del shared
    gc.collect()
    assert not path.exists()
