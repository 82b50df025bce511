"""Which errors are for want of memory: told by their class, along what led to them."""

import pytest
import torch

from lpp.capture.models.machine import out_of_memory

CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def raised_from(cause: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def while_handling(error: BaseException) -> BaseException:
    try:
        try:
            raise error
        except BaseException:
            raise KeyError("block 3")  # noqa: B904
    except KeyError as second:
        return second


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA: 2 GiB wanted"),
        RuntimeError(CPU_ALLOCATOR),
        RuntimeError("Worker failed with error 'CUDA out of memory. Tried to allocate 2 GiB'"),
        raised_from(torch.OutOfMemoryError(""), ValueError("no engine")),
        while_handling(MemoryError()),
    ],
)
def test_seen(error: BaseException) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        ValueError("a prompt about running out of memory"),
        OSError("out of memory.txt"),
        raised_from(ValueError("not enough memory of it"), RuntimeError("no engine")),
    ],
)
def test_not_seen(error: BaseException) -> None:
    assert not out_of_memory(error)


def test_a_real_allocation_that_fails_is_seen() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert out_of_memory(failed.value)


def test_a_circle_of_errors_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not out_of_memory(one)
