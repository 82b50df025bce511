"""Finding prompts in a flat batch, and putting a batch together again; no vLLM needed."""

import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_contract import make_batch
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.backends.vllm.backend import Assembly
from lpp.capture.backends.vllm.handover import Handed, InProcess, Receiver, SharedFile
from lpp.capture.backends.vllm.match import Found, find_prompts, prompt_key
from lpp.capture.backends.vllm.recorder import Taken
from lpp.store.errors import MachineError

PROMPTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8)


def ids(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32)


def flat(prompts: list[list[int]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.concatenate([ids(*p) for p in prompts]), np.concatenate(
        [np.arange(len(p)) for p in prompts]
    )


@given(prompts=PROMPTS)
def test_every_prompt_of_a_flat_batch_is_found_where_it_lies(prompts: list[list[int]]) -> None:
    awaited = Counter(prompt_key(ids(*p)) for p in prompts)
    starts = np.cumsum([0, *(len(p) for p in prompts[:-1])]).tolist()
    want = [Found(prompt_key(ids(*p)), s, len(p)) for p, s in zip(prompts, starts, strict=True)]
    assert find_prompts(*flat(prompts), awaited) == want


@given(prompts=PROMPTS, padding=st.lists(st.integers(0, 9), max_size=5))
def test_padding_behind_the_last_prompt_changes_nothing_before_it(
    prompts: list[list[int]], padding: list[int]
) -> None:
    awaited = Counter(prompt_key(ids(*p)) for p in prompts)
    tokens, positions = flat(prompts)
    rng = np.random.default_rng(len(padding))
    found = find_prompts(
        np.append(tokens, rng.integers(0, 4, len(padding)).astype(np.int32)),
        np.append(positions, padding),
        awaited,
    )
    want = find_prompts(tokens, positions, awaited)
    # stale positions may make the last prompt look longer: it is still that prompt, or one whose
    # ids the padding happens to spell
    assert found[: len(want) - 1] == want[:-1]
    assert found[len(want) - 1].start == want[-1].start


def test_a_prompt_that_nobody_awaits_is_passed_over() -> None:
    tokens, positions = flat([[1, 2], [3], [1, 2]])
    found = find_prompts(tokens, positions, {prompt_key(ids(1, 2)): 1})
    assert [(f.start, f.length) for f in found] == [(0, 2)]


def test_the_rest_of_a_chunked_prompt_is_not_taken_for_one() -> None:
    found = find_prompts(ids(7, 8, 9), np.array([4, 5, 6]), {prompt_key(ids(7, 8, 9)): 1})
    assert found == []


def taken(batch: Any, order: tuple[int, ...]) -> tuple[Taken, dict[str, Any]]:
    starts = np.cumsum([0, *batch.lengths])
    rows = np.concatenate([np.arange(starts[p], starts[p + 1]) for p in order])
    asked = [a for p in order for a in batch.asked if starts[p] <= a < starts[p + 1]]
    statistics = {"entropy": np.array(asked, np.float32)}
    return Taken(order, None, statistics), {"final": rows[:, None].astype(np.float32)}


@given(data=st.data(), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=7))
def test_a_batch_is_the_same_however_steps_cut_and_order_it(
    data: st.DataObject, lengths: list[int]
) -> None:
    prompts = [[n] * length for n, length in enumerate(lengths)]
    asked = data.draw(st.sets(st.integers(0, sum(lengths) - 1), min_size=1))
    batch = make_batch(prompts, sorted(asked))
    order = data.draw(st.permutations(range(len(lengths))))
    cut = data.draw(st.integers(0, len(lengths)))
    assembly = Assembly(batch)
    for part in (tuple(order[:cut]), tuple(order[cut:])):
        if part:
            assembly.add(*taken(batch, part))
    captured = assembly.captured()
    assert captured.hidden["final"][:, 0].tolist() == list(range(sum(lengths)))
    assert captured.statistics["entropy"].tolist() == sorted(asked)


@pytest.mark.parametrize("orders", [[(0,)], [(0, 1), (1,)], [(0, 1), (0,), (2,)]])
def test_a_missing_or_repeated_prompt_is_refused(orders: list[tuple[int, ...]]) -> None:
    batch = make_batch([[1], [2, 2], [3]])
    assembly = Assembly(batch)
    for order in orders:
        assembly.add(*taken(batch, order))
    with pytest.raises(MachineError, match="never passed through its model whole"):
        assembly.captured()


def test_equal_prompts_with_other_rows_asked_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="equal prompts"):
        Assembly(make_batch([[4, 4], [4, 4]], [0, 3]))


def give(sender: Any, shift: int) -> None:
    shared = SharedFile()
    for size in (5, 3, 4000):
        arrays = {"a": np.arange(size, dtype=np.uint16) + shift, "b": np.ones((size, 2))}
        sender.send(shared.give(0, arrays))
        sender.recv()  # the file is unlinked by whoever reads it


def test_arrays_pass_between_processes_and_leave_no_file() -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=give, args=(theirs, 3))
    process.start()
    receiver, paths = Receiver(), set()
    for size in (5, 3, 4000):
        handed: Handed = ours.recv()
        paths.add(handed.path)
        arrays = receiver.take(0, handed)
        np.testing.assert_array_equal(arrays["a"], np.arange(size, dtype=np.uint16) + 3)
        assert (arrays["b"].shape, arrays["b"].dtype) == ((size, 2), np.float64)
        del arrays
        ours.send(None)
    process.join(30)
    assert process.exitcode == 0
    assert len(paths) == 2, "one file serves until it is too small"
    assert not any(Path(path).exists() for path in paths)


def test_arrays_of_one_process_are_not_copied() -> None:
    rows = {"final": np.ones((2, 3))}
    assert Receiver().take(1, InProcess().give(1, rows))["final"] is rows["final"]
