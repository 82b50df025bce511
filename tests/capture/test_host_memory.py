"""Host memory for shards: registered with CUDA for as long as it is used, shared by its path.

The simulated card has CUDA's calls; a real one takes them in tests/capture/gpu.
"""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from simulated_card import card

from lpp.capture.backends.host_memory import (
    SharedMemory,
    host_memory,
    map_shared,
)
from lpp.capture.backends.vllm.worker_memory import Location, RankMemory
from lpp.capture.models.device import KINDS


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card that finds locks of memory that is gone, and an error that was left behind."""
    monkeypatch.setitem(KINDS, "sim", KINDS["cuda"])
    with card.fresh():
        yield
        gc.collect()
        assert card.locks == {}
        launch()


def launch() -> None:
    """A kernel, which raises the last error of CUDA's runtime, whatever caused it."""
    assert torch.ones(3, device="sim").sum().item() == 3


@pytest.mark.slow
def test_memory_is_registered_until_the_last_array_over_it_is_gone() -> None:
    memory: Any = host_memory(10_000, "sim")
    assert card.locks == {memory.ctypes.data: (10_000, True)}
    assert memory.ctypes.data % 4096 == 0
    rows = memory[4096:8192].view(np.uint16).reshape(4, 512)
    rows[...] = 7
    del memory
    gc.collect()
    assert len(card.locks) == 1
    assert rows.sum() == 7 * 2048
    del rows
    gc.collect()
    assert card.locks == {}


@pytest.mark.slow
def test_memory_that_is_not_registered_serves_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    card.page_lock_refused = True
    with caplog.at_level(logging.WARNING, "lpp.capture"):
        memory = host_memory(1 << 20, "sim")
    memory[...] = 1
    assert "page-locking 1 MB of host memory was refused (CUDA error 2" in caplog.text
    launch()  # and nothing is unregistered that never was


@pytest.mark.slow
def test_shared_memory_is_registered_for_as_long_as_a_rank_uses_it() -> None:
    shared = SharedMemory(10_000)
    rank = RankMemory(torch.device("sim"))
    rank.map(shared.path)
    assert [size for size, _ in card.locks.values()] == [10_000]
    (rows,) = rank.arrays({"final": Location(shared.path, 16, (4, 8), "<u2")}).values()
    rows[...] = 9
    assert shared.bytes[16] == 9
    rank.keep([])
    gc.collect()
    assert len(card.locks) == 1  # rows are still being copied
    del rows
    gc.collect()
    assert card.locks == {}


@pytest.mark.slow
def test_an_error_of_freeing_is_not_the_next_kernels() -> None:
    memory = host_memory(10_000, "sim")
    card.locks.clear()  # as if a library had unregistered it
    del memory
    gc.collect()
    launch()


@pytest.mark.slow
def test_plain_memory_is_the_processes_own() -> None:
    memory = host_memory(100, "cpu")
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
