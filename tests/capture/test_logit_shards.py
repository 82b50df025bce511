"""Ranks that each make some columns of the logits get the statistics of all of them."""

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from logit_reference import Columns, assert_equal, odd_rows, reference

from lpp.capture.backends.logit_statistics.partial import Reduce, VocabularyShard, all_reduce
from lpp.capture.backends.logit_statistics.statistics import (
    STATISTICS,
    default_tile_rows,
    logit_statistics,
)
from lpp.capture.backends.vllm.unembedding import find_unembedding

INF, NAN = float("inf"), float("nan")


class _Columns:
    """'Unembeds' rows to some of their own columns; columns past the last are padding."""

    def __init__(self, logits: torch.Tensor, columns: range) -> None:
        self.vocabulary = logits.shape[1]
        self.dtype, self.device = logits.dtype, logits.device
        self._columns = columns

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        out.fill_(-INF)
        real = rows[:, self._columns.start : self._columns.stop]
        out[:, : real.shape[1]] = real


class _Ranks:
    """The `Reduce` of each of some threads. nan: the maximum of a NaN and a number is the NaN."""

    def __init__(self, n: int, *, nan: bool) -> None:
        self._values: list[torch.Tensor] = [torch.empty(0)] * n
        self._all_here = threading.Barrier(n, timeout=60)
        self._max = torch.maximum if nan else torch.fmax
        self.numbers = [0] * n
        """Communicated by each rank."""

    def of(self, rank: int) -> Reduce:
        def reduce(values: torch.Tensor, operation: Literal["max", "sum"]) -> torch.Tensor:
            self._values[rank] = values
            self.numbers[rank] += values.numel()
            self._all_here.wait()
            reduced = self._values[0]
            for other in self._values[1:]:
                reduced = self._max(reduced, other) if operation == "max" else reduced + other
            self._all_here.wait()
            return reduced

        return reduce

    def give_up(self) -> None:
        self._all_here.abort()


def _sharded(
    logits: torch.Tensor,
    next_ids: Sequence[int],
    ends: Sequence[int],
    tile_rows: int | None = None,
    *,
    nan: bool = True,
) -> list[Columns]:
    """The statistics on each rank; ends: where each rank's columns end."""
    ranks = _Ranks(len(ends), nan=nan)

    def run(rank: int) -> Columns:
        columns = range(([0, *ends])[rank], ends[rank])
        shard = VocabularyShard(columns=columns, reduce=ranks.of(rank))
        unembed, following = _Columns(logits, columns), torch.tensor(next_ids)
        try:
            return logit_statistics(logits, unembed, following, tile_rows, shard).numpy()
        except BaseException:
            ranks.give_up()
            raise

    with ThreadPoolExecutor(len(ends)) as pool:
        results = list(pool.map(run, range(len(ends))))
    # for its next token and for the rest: what a row costs does not depend on the vocabulary
    assert ranks.numbers == [len(logits) * (1 + 1 + 2 + 5)] * len(ends)
    for other in results[1:]:
        for name in STATISTICS:
            np.testing.assert_array_equal(other[name], results[0][name], err_msg=name)
    return results


SPLITS = [(600,), (300, 600), (1, 600), (599, 600), (256, 512, 600), (100, 101, 347, 600)]


@pytest.mark.parametrize("ends", SPLITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile_rows", [None, 16])
def test_ranks_agree_with_float64(
    ends: tuple[int, ...], dtype: torch.dtype, tile_rows: int | None
) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = (torch.randn(37, 600, generator=generator) * 4).to(dtype)
    following = torch.randint(-1, 600, (37,), generator=generator).tolist()
    mine = _sharded(logits, following, ends, tile_rows)[0]
    assert_equal(mine, reference(logits.float().numpy(), following), atol=3e-6)


@pytest.mark.slow
@given(
    st.integers(2, 60).flatmap(
        lambda width: st.tuples(
            st.lists(
                st.lists(st.integers(-9, 9), min_size=width, max_size=width),
                min_size=1,
                max_size=3,
            ),
            st.sets(st.integers(1, width - 1), max_size=3),
        )
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_ties_within_and_between_ranks(
    rows_and_cuts: tuple[list[list[int]], set[int]], random: Random
) -> None:
    rows, cuts = rows_and_cuts
    logits = torch.tensor(rows, dtype=torch.float32) / 2
    width = logits.shape[1]
    following = [random.randrange(-1, width) for _ in rows]
    mine = _sharded(logits, following, (*sorted(cuts), width))[0]
    assert_equal(mine, reference(logits.numpy(), following), atol=3e-6)


def test_padding_weighs_nothing_on_a_rank_of_its_own_and_beside_real_columns() -> None:
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    following = [9, 0, 4, -1, 7, 8]
    expected = reference(logits.numpy(), following)
    for ends in ((4, 16), (4, 10, 12)):
        assert_equal(_sharded(logits, following, ends)[0], expected, atol=3e-6)


@pytest.mark.parametrize("columns", [range(4, 4), range(0, 8, 2), range(4, 0, -1)])
def test_columns_that_are_no_shard_are_refused(columns: range) -> None:
    with pytest.raises(ValueError, match="at least one column"):
        VocabularyShard(columns=columns)


def _run_two(
    body: Callable[[int, str, str], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run `body(rank, meeting, folder)` in two processes."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    meeting = (folder / "meeting").as_uri()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=body, args=(rank, meeting, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def _process(rank: int, meeting: str, results: str) -> None:
    from torch import distributed

    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    logits, following = odd_rows(600)
    columns = (range(350), range(350, 640))[rank]
    shard = VocabularyShard(columns=columns, reduce=all_reduce())
    statistics = logit_statistics(
        logits, _Columns(logits, columns), torch.tensor(following), 4, shard
    )
    np.savez(f"{results}/{rank}.npz", **statistics.numpy())
    distributed.destroy_process_group()


class _OnTheFirst(torch.nn.Module):
    """A model in bfloat16 whose logits, in float32, only the first rank gets."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.head = torch.nn.Linear(4, 7, dtype=torch.bfloat16)

    def compute_logits(self, rows: torch.Tensor) -> torch.Tensor | None:
        return self.head(rows).float() if self.rank == 0 else None


def _gathering(rank: int, meeting: str, results: str) -> None:
    from torch import distributed

    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    final = torch.ones(3, 4, dtype=torch.bfloat16)
    found = find_unembedding(_OnTheFirst(rank), final, 7, distributed.group.WORLD)
    # each tile is one collective call: as many on both ranks, of a vocabulary that this decides
    rows = default_tile_rows(torch.device("cuda"), 152_000, found.dtype)
    (Path(results) / f"{rank}.txt").write_text(f"{found.shard} {found.dtype} {rows}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_without_logits_make_as_many_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_two(_gathering, tmp_path, monkeypatch)
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said == ["None torch.float32 1024"] * 2


@pytest.mark.slow
def test_two_processes_of_torch_distributed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_two(_process, tmp_path, monkeypatch)
    logits, following = odd_rows(600)
    expected = reference(logits.numpy(), following)
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as mine:
            assert_equal({name: mine[name] for name in STATISTICS}, expected, atol=3e-6)
