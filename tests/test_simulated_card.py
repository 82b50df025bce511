"""The simulated card: each hazard is found, code without it passes, counts and sizes are exact."""

import copy
import gc
import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from simulated_card import Race, Runtime, Simulation, card
from tiny_families import FAMILIES, WITHOUT_SDPA, tiny_family

sim: Any = torch.get_device_module("sim")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[Simulation]:
    gc.collect()  # tensors that other tests left in cycles, or they would be freed in the middle
    with card.fresh():
        yield card


def on_card(*shape: int, value: float = 1.0, device: str = "sim") -> torch.Tensor:
    return torch.full(shape, value, device=device)


def locked(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, pin_memory=True)


def copied(source: torch.Tensor, target: torch.Tensor, *, wait: bool = True) -> Any:
    """The stream on which `target.copy_(source)` was launched."""
    side = sim.Stream()
    if wait:
        side.wait_stream(sim.current_stream())
    with sim.stream(side):
        target.copy_(source, non_blocking=True)
    return side


def hazard(do: Callable[[], object]) -> str:
    try:  # pytest.raises would keep the tensors of its frames
        do()
    except Race as race:
        return race.hazard
    raise AssertionError("no hazard was found")


# ------------------------------------------------------------------------------------- devices


@pytest.mark.slow
def test_an_operator_refuses_tensors_of_two_devices() -> None:
    with pytest.raises(RuntimeError, match="cpu"):
        on_card(3) + torch.ones(3)
    with pytest.raises(RuntimeError, match="cpu"):
        torch.add(torch.ones(3), torch.ones(3), out=on_card(3))
    assert (on_card(3) + torch.tensor(2.0)).tolist() == [3, 3, 3]  # a number comes with the launch


@pytest.mark.slow
def test_an_operator_refuses_tensors_of_two_cards() -> None:
    other = on_card(3, device="sim:1")
    with pytest.raises(RuntimeError, match="sim:0 and sim:1"):
        on_card(3) + other
    moved = other.to("sim:0")
    assert str(moved.device) == "sim:0"
    assert (on_card(3) + moved).tolist() == [2, 2, 2]
    assert card.counts["bytes between cards"] == 12
    with pytest.raises(RuntimeError, match="ordinal"):
        torch.ones(1, device="sim:2")


@pytest.mark.slow
def test_a_copy_between_cards_is_ordered_on_both() -> None:
    with sim.device(1):
        there = sim.Stream()
    source = on_card(4)
    with sim.stream(there):
        target = torch.empty(4, device="sim:1")
        target.copy_(source)
        doubled = target * 2
    source.zero_()  # its own stream copied
    assert hazard(lambda: target.add_(1)) == Race.UNORDERED_WRITE
    sim.current_stream(1).wait_stream(there)
    target.add_(1)
    assert (target.tolist(), doubled.tolist()) == ([2, 2, 2, 2], [2, 2, 2, 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "refused",
    [
        lambda: on_card(2, 2).long() @ on_card(2, 2).long(),
        lambda: torch.randn(3, device="sim", generator=torch.Generator()),
        lambda: on_card(2).pin_memory(),
        lambda: torch.empty(2, device="sim", pin_memory=True),
        lambda: on_card(2).numpy(),
    ],
)
def test_what_a_card_refuses_fails(refused: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        refused()


# ------------------------------------------------------------------------------------- streams


@pytest.mark.slow
def test_a_copy_is_seen_once_it_was_waited_for() -> None:
    rows, numbers = locked(3), locked(3, dtype=torch.int32)
    source = on_card(3, value=7.0)
    side = copied(source, rows)
    with sim.stream(side):
        numbers.copy_(source.int(), non_blocking=True)
    assert rows.isnan().all()
    assert numbers.numpy().tobytes() == b"\xa5" * 12
    side.synchronize()
    assert (rows.tolist(), numbers.tolist()) == ([7, 7, 7], [7, 7, 7])


@pytest.mark.slow
def test_a_copy_waits_for_the_stream_that_computes_its_source() -> None:
    source, rows = on_card(3), locked(3)
    assert hazard(lambda: copied(source, rows, wait=False)) == Race.UNORDERED_READ
    copied(source, rows).synchronize()


@pytest.mark.slow
def test_a_result_of_another_stream_is_waited_for() -> None:
    side = sim.Stream()
    side.wait_stream(sim.current_stream())
    source = on_card(3)
    with sim.stream(side):
        assert hazard(lambda: source * 2) == Race.UNORDERED_READ
        side.wait_stream(sim.default_stream())
        doubled = source * 2
    assert hazard(lambda: doubled + 1) == Race.UNORDERED_READ
    sim.current_stream().wait_stream(side)
    assert (doubled + 1).tolist() == [3, 3, 3]


@pytest.mark.slow
def test_a_wait_is_passed_on_by_streams_and_by_the_host() -> None:
    first, second, third = sim.Stream(), sim.Stream(), sim.Stream()
    with sim.stream(first):
        source = on_card(3)
    second.wait_stream(first)
    third.wait_stream(second)
    with sim.stream(third):
        source + 1
        source.record_stream(third)
    assert hazard(lambda: source + 1) == Race.UNORDERED_READ
    third.synchronize()  # the host has then waited for the first stream, too
    source + 1
    source.record_stream(sim.current_stream())


@pytest.mark.slow
def test_a_source_that_is_freed_needs_record_stream() -> None:
    rows = locked(1000)
    side = copied(on_card(1000), rows)
    assert hazard(side.synchronize) == Race.FREED_EARLY
    side.synchronize()
    source = on_card(1000, value=2.0)
    side = copied(source, rows)
    source.record_stream(side)
    del source
    assert sim.memory_allocated() == 4000  # the copy reads it
    side.synchronize()
    assert rows[0] == 2
    assert sim.memory_allocated() == 0


@pytest.mark.slow
def test_a_source_may_be_freed_after_its_own_stream_waited() -> None:
    source, rows = on_card(3), locked(3)
    side = copied(source, rows)
    sim.current_stream().wait_stream(side)
    del source
    side.synchronize()


@pytest.mark.slow
@pytest.mark.parametrize("write", ["add_", "out", "copy_", "index"])
def test_in_place_work_waits_for_a_copy_that_reads(write: str) -> None:
    source, rows, ones = on_card(4), locked(4), on_card(4)

    def change() -> None:
        if write == "add_":
            source.add_(1)
        elif write == "out":
            torch.add(ones, 1, out=source)
        elif write == "copy_":
            source.copy_(ones + 1)
        else:
            source[:] = 2

    side = copied(source, rows)
    assert hazard(change) == Race.UNORDERED_WRITE
    sim.current_stream().wait_stream(side)
    change()
    side.synchronize()
    assert rows.tolist() == [1, 1, 1, 1]
    assert source.tolist() == [2, 2, 2, 2]


@pytest.mark.slow
def test_memory_is_compared_by_bytes() -> None:
    buffer, rows = on_card(4, 2), locked(2, 2)
    side = copied(buffer[:2], rows)
    buffer[2:].zero_()
    assert hazard(buffer[1:3].zero_) == Race.UNORDERED_WRITE
    buffer[0] + 1  # two may read
    side.synchronize()
    assert rows.tolist() == [[1, 1], [1, 1]]


@pytest.mark.slow
def test_events_order_streams_and_are_waited_for() -> None:
    source, rows = on_card(3), locked(3)
    ready, side = sim.Event(enable_timing=True), sim.Stream()
    assert ready.query()  # never recorded
    ready.record()
    side.wait_event(ready)
    with sim.stream(side):
        rows.copy_(source, non_blocking=True)
    done = side.record_event()
    with sim.stream(side):
        more = on_card(3)
    done.synchronize()
    assert rows.tolist() == [1, 1, 1]
    assert hazard(lambda: more + 1) == Race.UNORDERED_READ  # launched after the event
    done = side.record_event()
    done.wait()
    more + 1
    more.record_stream(sim.current_stream())
    assert ready.elapsed_time(done) > 0


@pytest.mark.slow
def test_an_event_that_was_recorded_too_early_does_not_end_a_copy() -> None:
    side, rows, source = sim.Stream(), locked(3), on_card(3)
    side.wait_stream(sim.current_stream())
    early = side.record_event()
    with sim.stream(side):
        rows.copy_(source, non_blocking=True)
    early.synchronize()
    assert rows.isnan().all()
    side.synchronize()
    assert not rows.isnan().any()


@pytest.mark.slow
def test_a_query_is_true_once_the_time_has_passed() -> None:
    rows, source = locked(1 << 20), on_card(1 << 20)
    side = copied(source, rows)
    assert not side.query()
    asked = 1
    while not side.query():
        asked += 1
    assert asked * card.query_seconds == pytest.approx((4 << 20) / card.locked_bandwidth, rel=0.2)
    assert rows[0] == 1


# ------------------------------------------------------------------------------- the host's side


@pytest.mark.slow
def test_the_source_of_a_copy_to_the_card_stays_as_it_is() -> None:
    ids = locked(4)
    moved = ids.to("sim", non_blocking=True)
    ids.fill_(3)
    assert hazard(sim.synchronize) == Race.CHANGED_SOURCE
    assert moved.tolist() == [0, 0, 0, 0]
    ids.to("sim", non_blocking=True)
    sim.synchronize()
    ids.fill_(4)
    torch.ones(4).pin_memory().to("sim", non_blocking=True)  # torch keeps its memory
    gc.collect()
    sim.synchronize()


@pytest.mark.slow
def test_the_target_of_a_copy_stays_as_it_is() -> None:
    rows, source = locked(4), on_card(4)
    side = copied(source, rows)
    rows[0] = 5
    assert hazard(side.synchronize) == Race.CHANGED_TARGET
    with sim.stream(side):
        rows.copy_(source, non_blocking=True)
        rows.copy_(source * 2, non_blocking=True)  # in order
    side.synchronize()
    assert rows.tolist() == [2, 2, 2, 2]


@pytest.mark.slow
def test_two_streams_do_not_copy_into_the_same_memory() -> None:
    rows, source = locked(4), on_card(4)
    side = copied(source, rows)
    assert hazard(lambda: copied(source, rows)) == Race.CROSSING_COPIES
    side.synchronize()


@pytest.mark.slow
def test_a_copy_may_go_through_the_host_in_order() -> None:
    rows, source = locked(4), on_card(4)
    side = copied(source, rows)
    with sim.stream(side):
        back = rows.to("sim", non_blocking=True)
        assert back.tolist() == [1, 1, 1, 1]
    side.synchronize()


@pytest.mark.slow
def test_a_copy_that_nobody_waits_for_is_found() -> None:
    rows, source = locked(4), on_card(4)

    def careless() -> None:
        with card.fresh():
            copied(source, rows)

    assert hazard(careless) == Race.NEVER_AWAITED


@pytest.mark.slow
def test_copies_of_pageable_memory_wait() -> None:
    source = on_card(4)
    plain, rows, ids = torch.zeros(4), locked(4), locked(4)
    expected = {"launches": 1, "bytes to host": 16, "waits": 1, "pageable copies": 1}
    card.counts.clear()
    plain.copy_(source, non_blocking=True)
    assert card.counts == expected
    assert plain.tolist() == [1, 1, 1, 1]
    card.counts.clear()
    rows.copy_(source)
    assert card.counts == {"launches": 1, "bytes to host": 16, "waits": 1}
    card.counts.clear()
    ids.to("sim", non_blocking=True)
    assert card.counts == {"launches": 1, "bytes to card": 16, "allocations": 1}
    card.counts.clear()
    locked(4, 2)[:, 0].copy_(source, non_blocking=True)  # not one stretch of memory
    assert card.counts == expected
    card.counts.clear()
    assert source.to("cpu", non_blocking=True).isnan().all()  # torch locks its memory
    assert card.counts == {"launches": 1, "bytes to host": 16}
    sim.synchronize()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_counts_are_exact(mode: Any) -> None:
    with mode():
        check_counts()


def check_counts() -> None:
    x = on_card(2, 3)
    index, mask = torch.tensor([1, 0]), x > 0
    card.counts.clear()
    x.view(3, 2).t()[1:].unsqueeze(0).detach()
    assert not card.counts
    torch.empty(3, device="sim")
    assert card.counts == {"allocations": 1}
    card.counts.clear()
    x.add_(1).mul_(2)
    x @ x.t()
    torch.nn.functional.linear(x, x)
    assert card.counts == {"launches": 4, "allocations": 2}
    for waits in (
        x.sum().item,
        x.tolist,
        x.nonzero,
        x.cpu,
        lambda: x[mask],
        lambda: bool(mask[0, 0]),
    ):
        card.counts.clear()
        waits()
        assert card.counts["waits"] == 1
    card.counts.clear()
    x[mask] = 0
    assert card.counts["waits"] == 0
    x[index]
    assert card.counts["waits"] == card.counts["pageable copies"] == 1
    assert card.counts["bytes to card"] == 16


@pytest.mark.slow
def test_a_clock_counts() -> None:
    source, rows = on_card(1 << 20), locked(1 << 20)
    sim.synchronize()
    begun = card.host_clock
    side = copied(source, rows)
    assert card.host_clock == begun + card.launch_seconds
    side.synchronize()
    lasted = (4 << 20) / card.locked_bandwidth
    assert card.host_clock == side.clock == pytest.approx(begun + card.launch_seconds + lasted)


# ------------------------------------------------------------------------------------- memory


@pytest.mark.slow
def test_live_bytes_are_those_of_allocations() -> None:
    gc.collect()  # tensors of errors that other tests caught
    before = sim.memory_allocated()
    sim.reset_peak_memory_stats()
    x = on_card(10, 10)
    view = x[3:, 2]
    assert sim.memory_allocated() - before == 400
    del x
    assert sim.memory_allocated() - before == 400
    del view
    assert sim.memory_allocated() - before == 0
    assert sim.max_memory_allocated() - before == 400
    sim.reset_peak_memory_stats()
    y = on_card(5, device="sim:1")
    assert sim.max_memory_allocated() - before == 0
    assert sim.max_memory_allocated(1) >= 20
    assert y.sum() == 5


@pytest.mark.slow
def test_a_capacity_is_not_exceeded() -> None:
    gc.collect()
    card.capacity = sim.memory_allocated() + 1000
    x = on_card(200)
    assert sim.mem_get_info() == (200, card.capacity)
    with pytest.raises(torch.OutOfMemoryError):
        x * 2
    assert sim.mem_get_info() == (200, card.capacity)
    on_card(200, device="sim:1")
    del x
    on_card(250)
    with pytest.raises(torch.OutOfMemoryError):
        on_card(251)
    assert sim.mem_get_info() == (1000, card.capacity)


@pytest.mark.slow
def test_an_allocation_waits_for_recorded_streams() -> None:
    card.capacity = sim.memory_allocated() + 10_000
    card.locked_bandwidth = 1e3
    source, rows = on_card(2000), locked(2000)
    side = copied(source, rows)
    source.record_stream(side)
    del source
    card.counts.clear()
    on_card(2000)
    assert card.counts["waits"] == 1
    assert rows.isnan().all()  # the allocator waited, not the host's code
    side.synchronize()


# ------------------------------------------------------------------------------------- page locks


def mapped(size: int) -> Any:
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


@pytest.mark.slow
def test_registered_memory_takes_copies_that_do_not_wait() -> None:
    runtime, memory, source = sim.cudart(), mapped(8192), on_card(4)
    address, rows = memory.ctypes.data, torch.from_numpy(memory)[64:80].view(torch.float32)
    assert not rows.is_pinned()
    assert runtime.cudaHostRegister(address, 8192, 0) == 0
    assert rows.is_pinned()
    side = copied(source, rows)
    assert rows.isnan().all()
    side.synchronize()
    assert rows.tolist() == [1, 1, 1, 1]
    assert runtime.cudaHostUnregister(address) == 0
    assert not rows.is_pinned()


@pytest.mark.slow
def test_a_lock_is_not_released_under_a_copy() -> None:
    runtime, memory, source = sim.cudart(), mapped(8192), on_card(4)
    rows = torch.from_numpy(memory)[:16].view(torch.float32)
    runtime.cudaHostRegister(memory.ctypes.data, 8192, 0)
    side = copied(source, rows)
    assert runtime.cudaHostUnregister(memory.ctypes.data) == 0
    assert hazard(side.synchronize) == Race.RELEASED_EARLY


@pytest.mark.slow
def test_a_lock_is_released_before_its_memory() -> None:
    runtime = sim.cudart()

    def careless() -> None:
        with card.fresh():
            memory = mapped(8192)
            runtime.cudaHostRegister(memory.ctypes.data, 8192, 0)
            del memory

    assert hazard(careless) == Race.LOCK_LEFT


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda runtime, address: runtime.cudaHostUnregister(address),
        lambda runtime, address: runtime.cudaHostRegister(1 << 44, 4096, 0),
        lambda runtime, address: [runtime.cudaHostRegister(address, 4096, 0) for _ in "12"][1],
    ],
)
def test_an_error_of_a_page_lock_is_raised_by_the_next_kernel(
    call: Callable[[Runtime, int], int],
) -> None:
    memory = mapped(4096)
    assert call(sim.cudart(), memory.ctypes.data) != 0
    x = torch.empty(3, device="sim")  # launches nothing
    with pytest.raises(RuntimeError, match="CUDA error"):
        x.zero_()
    x.zero_()
    sim.cudart().cudaHostUnregister(memory.ctypes.data)
    with suppress(RuntimeError):
        x.zero_()


@pytest.mark.slow
def test_a_page_lock_may_be_refused() -> None:
    card.page_lock_refused = True
    memory = mapped(4096)
    assert sim.cudart().cudaHostRegister(memory.ctypes.data, 4096, 0) == 2
    with pytest.raises(RuntimeError, match="CUDA error"):
        on_card(1)
    assert not torch.from_numpy(memory).is_pinned()
    on_card(1)


# ------------------------------------------------------------------------------------- torch's API


@pytest.mark.slow
def test_streams_and_devices_are_current_inside_their_context() -> None:
    assert (sim.is_available(), sim.device_count(), sim.current_device()) == (True, 2, 0)
    first = sim.current_stream()
    assert first is sim.default_stream()
    with sim.device(1):
        assert torch.ones(1, device="sim").device.index == 1
        side = sim.Stream()
    with sim.stream(side):
        assert (sim.current_device(), sim.current_stream()) == (1, side)
        assert sim.current_stream(0) is first
    assert (sim.current_device(), sim.current_stream()) == (0, first)
    with sim.stream(None):
        assert sim.current_stream() is first
    sim.set_device("sim:1")
    assert torch.accelerator.current_device_index() == 1
    card.cards = 0
    assert not sim.is_available()


@pytest.mark.slow
def test_tensors_are_pinned_by_every_factory() -> None:
    plain = torch.arange(6).view(2, 3).t()
    pinned = plain.pin_memory()
    assert (plain.is_pinned(), pinned.is_pinned()) == (False, True)
    assert torch.equal(plain, pinned)
    assert pinned.pin_memory() is pinned
    assert pinned[1:].is_pinned()
    for made in (
        torch.empty(3, dtype=torch.bfloat16, pin_memory=True),
        torch.zeros((2, 2), pin_memory=True),
        torch.empty_like(plain, pin_memory=True),
        torch.tensor([1, 2], pin_memory=True),
    ):
        assert made.is_pinned()
    assert not torch.empty(3).is_pinned()


@pytest.mark.slow
def test_random_numbers_are_those_of_the_cpu() -> None:
    expected = torch.randn(5, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(3)
    assert torch.equal(torch.randn(5, device="sim").cpu(), expected)


@pytest.mark.slow
def test_modules_move_and_are_copied() -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.register_buffer("mask", torch.ones(3))
    x = torch.randn(2, 3)
    with torch.inference_mode():
        expected = model(x)
    original = model[0].weight.detach().clone()
    model.to("sim")
    assert model[1].weight is model[0].weight
    assert isinstance(model[0].weight, torch.nn.Parameter)
    assert model.mask.device.type == "sim"
    twin = copy.deepcopy(model)
    assert twin[1].weight is twin[0].weight
    with torch.no_grad():
        model[0].weight.zero_()
    with torch.inference_mode():
        assert torch.equal(twin(x.to("sim")).cpu(), expected)
    twin.to(torch.bfloat16)
    assert twin[0].weight.dtype == torch.bfloat16
    assert torch.equal(twin[0].weight.cpu(), original.bfloat16())
    twin.to("cpu")
    assert torch.equal(twin[1].weight, original.bfloat16())


@pytest.mark.slow
def test_contexts_of_torch_take_the_device() -> None:
    with torch.autocast("sim", enabled=False), torch.inference_mode():
        x = torch.ones(3, device="sim")
        x.view(1, 3).add_(1)
        assert x.tolist() == [2, 2, 2]
    assert torch.get_default_device().type == "cpu"
    with torch.device("sim"):
        assert torch.zeros(3).device.type == "sim"
        assert torch.empty(3).device.type == "sim"
        assert torch.tensor([1]).device.type == "sim"
    assert "sim:0" in repr(torch.ones(2, device="sim"))
    x.add_(1)  # outside of inference mode
    assert x.tolist() == [3, 3, 3]


# ------------------------------------------------------------------------------------- families


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "dtype"), [("eager", torch.bfloat16), ("sdpa", torch.float32)]
)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_gives_the_bits_of_the_cpu(family: str, attention: str, dtype: torch.dtype) -> None:
    if attention == "sdpa" and family in WITHOUT_SDPA:
        return
    model = tiny_family(family, dtype, attention)
    ids = torch.randint(3, 67, (2, 11))
    with torch.inference_mode():
        expected = model(ids, output_hidden_states=True)
        model.to("sim")
        got = model(ids.to("sim"), output_hidden_states=True)
    assert torch.equal(got.logits.cpu(), expected.logits)
    assert len(got.hidden_states) == len(expected.hidden_states)
    for mine, theirs in zip(got.hidden_states, expected.hidden_states, strict=True):
        assert mine.device.type == "sim"
        assert torch.equal(mine.cpu(), theirs)
