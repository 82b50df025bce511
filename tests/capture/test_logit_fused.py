"""The reduction that a GPU compiles: what the compiler makes of it, and what follows without it."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from logit_reference import Given, assert_equal, assert_within, levels, odd_rows, reference

from lpp.capture.backends.logit_statistics.fused import FusedReduction, compiled, fused_reduction
from lpp.capture.backends.logit_statistics.partial import VocabularyShard
from lpp.capture.backends.logit_statistics.statistics import (
    default_tile_rows,
    logit_statistics,
    token_statistics,
)
from lpp.capture.models.structure.unembedding import Unembedding

COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def _reduced(reduce: FusedReduction, logits: torch.Tensor, next_ids: list[int]) -> Any:
    following = torch.tensor(next_ids)
    shard = VocabularyShard(columns=range(logits.shape[1]))
    partial = reduce(logits, shard.next_logit(logits, following))
    return token_statistics(partial, following < 0).numpy()


def _check(reduce: FusedReduction, width: int, dtype: torch.dtype) -> None:
    """Tiles of two heights, and of one row."""
    logits, following = odd_rows(width)
    logits = logits.to(dtype)
    for rows in (slice(None), slice(0, 5), slice(2, 3)):
        some, next_ids = logits[rows], following[rows]
        expected = reference(some.float().numpy(), next_ids)
        assert_equal(_reduced(reduce, some, next_ids), expected, atol=3e-6)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "lpp.capture"]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Compiled code of another test counts towards the limit of recompilations."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_function_compiles_whole_and_for_any_number_of_rows(
    mode: Callable[[], AbstractContextManager[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a compiler of machine code: traced, decomposed, run operator by operator."""
    reduce = FusedReduction(compiled("aot_eager"), wide=1)
    with mode():
        for width in (1, 2, 255, 600):
            _check(reduce, width, torch.bfloat16)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 4  # one for each V, none for another height
    assert not counters["graph_break"]
    assert not _warnings(caplog)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # importing inductor
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_machine_code_gives_the_statistics(caplog: pytest.LogCaptureFixture) -> None:
    reduce = FusedReduction(compiled(), wide=1)
    with torch.inference_mode():
        _check(reduce, 600, torch.bfloat16)
        for logits, entropy, varentropy in levels(5_000):
            following = [5] * len(logits)
            expected = reference(logits.numpy(), following)
            assert_within(_reduced(reduce, logits, following), expected, entropy, varentropy)
    assert not _warnings(caplog)


def test_plain_code_takes_over_where_compiling_fails(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def no_compiler(*_: torch.Tensor) -> dict[str, torch.Tensor]:
        calls.append(1)
        raise RuntimeError("Cannot find a working triton installation.\nMore lines.")

    reduce = FusedReduction(no_compiler, wide=1)
    for _ in range(2):
        _check(reduce, 300, torch.float32)
    assert len(calls) == 1
    (record,) = _warnings(caplog)
    assert "Cannot find a working triton installation." in record.getMessage()
    assert "More lines" not in record.getMessage()


def test_lack_of_memory_is_no_failure_of_the_compiler(caplog: pytest.LogCaptureFixture) -> None:
    def no_memory(*_: torch.Tensor) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    logits = torch.zeros(2, 9)
    with pytest.raises(torch.OutOfMemoryError):
        FusedReduction(no_memory, wide=1)(logits, logits[:, 0])
    assert not _warnings(caplog)


@pytest.mark.parametrize(("rows", "columns"), [(4, 99), (1, 100)])
def test_narrow_and_single_rows_do_not_wait_for_the_compiler(rows: int, columns: int) -> None:
    def unwanted(*_: torch.Tensor) -> dict[str, torch.Tensor]:
        raise AssertionError("compiled")

    logits = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    expected = reference(logits.numpy(), [3] * rows)
    reduce = FusedReduction(unwanted, wide=100)
    assert_equal(_reduced(reduce, logits, [3] * rows), expected, atol=3e-6)


def test_plain_code_reduces_large_tiles_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpp.capture.backends.logit_statistics.fused.PLAIN_LOGITS", 1000)
    seen = []

    def watched(logits: torch.Tensor, next_logit: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(len(logits))
        return fused_reduction(logits, next_logit)

    monkeypatch.setattr("lpp.capture.backends.logit_statistics.fused.fused_reduction", watched)
    logits, following = odd_rows(300)
    mine = _reduced(FusedReduction(compiled(), wide=301), logits, following)
    assert_equal(mine, reference(logits.numpy(), following), atol=3e-6)
    assert seen == [3, 3, 3]


@pytest.mark.parametrize(
    ("device", "vocabulary", "dtype", "rows"),
    [
        ("cpu", 49_152, torch.bfloat16, 256),
        ("cpu", 151_936, torch.float32, 220),
        ("cpu", 4_000_000, torch.bfloat16, 16),
        ("cuda", 113, torch.float32, 2048),
        ("cuda", 49_152, torch.bfloat16, 2048),
        ("cuda", 151_936, torch.bfloat16, 1664),
        ("cuda", 262_144, torch.bfloat16, 1024),
        ("cuda:1", 262_144, torch.float32, 1024),
    ],
)
def test_the_size_of_a_tile_follows_device_and_vocabulary(
    device: str, vocabulary: int, dtype: torch.dtype, rows: int
) -> None:
    assert default_tile_rows(torch.device(device), vocabulary, dtype) == rows


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [600, 49_152, 151_936])
def test_a_gpu_keeps_the_documented_bounds(vocabulary: int, dtype: torch.dtype) -> None:
    for logits, entropy, varentropy in levels(vocabulary):
        rounded = logits.to(dtype)
        following = torch.full((len(rounded),), 5)
        unembed = Unembedding(Given(), rounded.cuda())
        mine = logit_statistics(rounded.cuda(), unembed, following).numpy()
        expected = reference(rounded.float().numpy(), following.tolist())
        assert_within(mine, expected, entropy, varentropy)
