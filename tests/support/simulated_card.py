"""A simulated accelerator card: PyTorch code for a GPU runs on a CPU, and its mistakes are errors.

Importing this module registers the device kind `sim` with PyTorch, 2.10 or later, for the process
(tests that import it are skipped where PyTorch is older). `torch.accelerator` then means `sim`,
even where the machine has a card: keep this module out of processes that are to use that card.

    import torch
    from simulated_card import card

    with card.fresh():
        model = model.to("sim")
        logits = model(ids.to("sim")).logits.cpu()  # the bits that the CPU computes
        print(card.counts["waits"], card.counts["bytes to host"])

A tensor on `sim` wraps a CPU tensor. Every operator runs the CPU's kernel on the wrapped tensors:
numbers are the CPU's, bit for bit. `torch.get_device_module("sim")` offers what `torch.cuda` does:
streams, events, sizes of memory, page-locked host memory.

What it finds. Each hazard is a `Race`; its `hazard` is one of the constants of that class:

- work on a stream that reads or writes memory which another stream writes, or writes memory which
  another stream reads, unless the first stream has waited for the other one. Memory is compared by
  range of bytes. In particular: a copy of a result that is not computed yet, and in-place work on
  the source of a copy that has not run;
- memory that is freed while another stream may still use it, without `record_stream`;
- the host reads the target of an asynchronous copy before it waits: until then floats are NaN and
  other numbers consist of the byte 0xA5. If the host writes there, the wait raises;
- the host changes the page-locked source of an asynchronous copy before it waits;
- page-locked memory that is released while a copy uses it; and, at the end of `card.fresh`, copies
  that nobody waited for and page locks whose memory is gone.

Other errors are those of CUDA: tensors of two devices in one operator, allocations beyond
`card.capacity` (torch.OutOfMemoryError), matrix products of integers, a CPU's generator, an error
that a refused page lock leaves behind for the next kernel.

How time passes. Work of every stream is computed at once, in the order in which the host launches
it. Only copies to the host appear late: when the host waits for them. Happened-before is tracked by
vector clocks: for each stream, how much work of every other stream is known to have ended. So a
hazard is found whenever the order is not enforced, whatever the speed. `card.host_clock` and
`Stream.clock` count simulated seconds; they decide when `query` is true and when memory with
`record_stream` returns.

What it does not simulate: kernels of a real card (their rounding, their temporary memory), graphs,
gradients, generators, sparse and quantized tensors, operators that change the shape of their input
in place, `torch.Stream` and `torch.Event`. Allocations are exact bytes, without rounding or
fragmentation. A tensor is never an inference tensor. `tensor.to("sim")` without an index means
card 0; where tensors are created, "sim" means the current card. Threads share one host's knowledge.
"""

import ctypes
import functools
import itertools
import math
import mmap
import threading
import unittest
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch.utils import _device

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
except ImportError as error:
    raise unittest.SkipTest("the simulated card needs torch 2.10 or newer") from error

KIND: Final = "sim"
UNBOUNDED: Final = 80 << 30
"""Bytes of memory that a card without a capacity reports."""

Known = dict[int, int]
"""Number of a stream -> how many of its works have ended, or end first."""
Device = torch.device | str | int | None
Span = tuple[int, int]
"""First byte and end."""

aten: Any = torch.ops.aten
_CPU: Final = torch.device("cpu")
_libc: Final = ctypes.CDLL(None)
_numbers: Final = itertools.count()


class Race(RuntimeError):  # noqa: N818
    """A wrong number, or worse, that a real card would give sometimes."""

    UNORDERED_READ = "unordered read"
    UNORDERED_WRITE = "unordered write"
    FREED_EARLY = "memory freed early"
    CHANGED_SOURCE = "changed source"
    CHANGED_TARGET = "changed target"
    CROSSING_COPIES = "crossing copies"
    RELEASED_EARLY = "page lock released early"
    NEVER_AWAITED = "copy never awaited"
    LOCK_LEFT = "page lock left"

    def __init__(self, hazard: str, message: str) -> None:
        super().__init__(f"{hazard}: {message}")
        self.hazard = hazard


class _Thread(threading.local):
    """What CUDA keeps for each thread of the host."""

    def __init__(self) -> None:
        self.device, self.error = 0, 0
        self.streams: dict[int, Stream] = {}


class Stream:
    """Work on one card, in order."""

    def __init__(self, device: Device = None, priority: int = 0) -> None:
        self.device = torch.device(KIND, _index(device))
        self.number = next(_numbers)
        self.known: Known = {}
        """Work of other streams that ends before any further work of this one begins."""
        self.clock = 0.0
        """Simulated second at which the work launched so far ends."""
        card.streams.add(self)
        card.begun[self.number] = 0

    def past(self) -> Known:
        """All work that has ended once the work launched so far has."""
        return {**self.known, self.number: card.begun[self.number]}

    def knows(self, number: int, work: int) -> bool:
        """Whether the next work of this stream begins after that work of another stream ended."""
        known = max(self.known.get(number, 0), card.known.get(number, 0))
        return number == self.number or known >= work

    def wait_event(self, event: "Event") -> None:
        _learn(self.known, event.past)
        self.clock = max(self.clock, event.clock)

    def wait_stream(self, stream: "Stream") -> None:
        self.wait_event(stream.record_event())

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        card.wait(self.past(), self.clock)

    def query(self) -> bool:
        return card.has_ended(self.past(), self.clock)


class Event:
    """A point of a stream. One that was never recorded has occurred."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self.past: Known = {}
        self.clock = 0.0

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        self.past, self.clock = stream.past(), stream.clock

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def synchronize(self) -> None:
        card.wait(self.past, self.clock)

    def query(self) -> bool:
        return card.has_ended(self.past, self.clock)

    def elapsed_time(self, end: "Event") -> float:
        return (end.clock - self.clock) * 1000


def _learn(known: Known, past: Known) -> None:
    for number, work in past.items():
        known[number] = max(known.get(number, 0), work)


@dataclass(slots=True)
class _Block:
    """An allocation on a card, and which work uses it."""

    home: Stream
    """The stream whose later allocations may reuse the memory once it is freed."""
    size: int
    uses: dict[tuple[int, int, int, bool], int]
    """(stream, first byte, end, whether it writes) -> the stream's newest such work."""
    recorded: dict[int, Stream] = field(default_factory=dict)

    def check(self, name: str, stream: Stream, span: Span, writes: bool) -> None:
        """Raise unless `stream` has waited for all work that conflicts with a use of `span`."""
        for (number, first, end, wrote), work in self.uses.items():
            apart = end <= span[0] or span[1] <= first
            if (wrote or writes) and not apart and not stream.knows(number, work):
                hazard = Race.UNORDERED_WRITE if writes else Race.UNORDERED_READ
                other = f"stream {number} {'writes' if wrote else 'reads'}"
                raise Race(hazard, f"{name} uses memory that {other}, without a wait")


class _Memory:
    """Shared by all tensors over one `_Block`, which is freed with the last of them."""

    of_storage: ClassVar[weakref.WeakValueDictionary[int, "_Memory"]] = (
        weakref.WeakValueDictionary()
    )

    def __init__(self, block: _Block) -> None:
        self.block = block
        weakref.finalize(self, card.freed.append, block).atexit = False

    @classmethod
    def of(cls, raw: torch.Tensor, index: int) -> "_Memory":
        """The memory under `raw`, allocated on a card if it is new."""
        storage = raw.untyped_storage()
        memory = cls.of_storage.get(storage._cdata)
        if memory is None:
            stream, size = current_stream(index), storage.nbytes()
            card.allocate(index, size)
            # Earlier work of the stream may still use the memory: this is like a write.
            uses = {(stream.number, 0, size, True): card.begun[stream.number]}
            memory = cls.of_storage[storage._cdata] = cls(_Block(stream, size, uses))
        return memory


@dataclass(slots=True)
class _Copy:
    """An asynchronous copy between a card and page-locked host memory."""

    stream: int
    work: int
    address: int
    data: bytes
    """What the source held when the copy was launched."""
    unready: bytes | None
    """What the host's memory holds until the copy to it ends; None: a copy to the card."""
    kept: torch.Tensor | None
    """The host tensor, if torch locked its memory: its allocator keeps it until the copy ends."""
    crossed: bool = False
    """Whether another copy uses the same host memory, in order: its bytes prove nothing."""

    def meets(self, address: int, size: int) -> bool:
        return address < self.address + len(self.data) and self.address < address + size

    def end(self) -> None:
        """Give the host its data, or check what the card read."""
        size = len(self.data)
        if self.kept is None and not _is_mapped(self.address, size):
            card.found.append(Race(Race.RELEASED_EARLY, "the host's memory went before its copy"))
            return
        held = ctypes.string_at(self.address, size)
        if self.unready is not None:
            ctypes.memmove(self.address, self.data, size)
        if not self.crossed and held != (self.unready or self.data):
            hazard = Race.CHANGED_TARGET if self.unready else Race.CHANGED_SOURCE
            card.found.append(Race(hazard, "the host did not wait for a copy"))


class Simulation:
    """Settings and findings of this process; its only instance is `card`.

    counts: "launches" (kernels and copies; views and allocations are free), "waits" (of the host),
    "pageable copies", "bytes to host", "bytes to card", "bytes between cards", "allocations".
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.begun: Known = {}
        """Works launched so far, by stream: kernels and copies."""
        self.known: Known = {}
        """Work that the host knows to have ended."""
        self.copies: list[_Copy] = []
        """Asynchronous copies that the host does not know to have ended, in order."""
        self.freed: list[_Block] = []
        """Blocks that were freed since the last `settle`."""
        self.freed_later: list[tuple[float, int, int]] = []
        """(second, card, bytes): freed memory that recorded streams use until then."""
        self.found: list[Race] = []
        """Hazards to raise at the next call: where they appeared, nobody would see an error."""
        self.live: Counter[int] = Counter()
        """Bytes allocated on each card."""
        self.locks: dict[int, tuple[int, bool]] = {}
        """Page-locked host memory: address -> bytes, and whether cudaHostRegister locked it."""
        self.reset()

    def reset(self) -> None:
        """Defaults for settings; counts of zero; nothing runs. Memory stays allocated."""
        self.cards = 2
        """Number of cards; 0: none is available."""
        self.capacity: int | None = None
        """Bytes of memory of each card; None: unbounded."""
        self.page_lock_refused = False
        """Whether cudaHostRegister fails, as beyond the limit of `ulimit -l`."""
        self.launch_seconds, self.kernel_seconds, self.query_seconds = 5e-6, 2e-6, 1e-6
        """Simulated seconds: of the host for a launch, of the card for a kernel, of a query."""
        self.locked_bandwidth, self.pageable_bandwidth = 25e9, 5e9
        """Bytes a simulated second of a copy, with page-locked and with other host memory."""
        self.host_clock = 0.0
        self.counts.clear()
        self.copies.clear()
        self.known = dict(self.begun)
        for stream in self.streams:
            stream.clock = 0.0
        _thread.__init__()  # type: ignore[misc]
        with suppress(Race):
            self.settle()
        self._return_memory(math.inf)
        self.peak: Counter[int] = Counter(self.live)

    @contextmanager
    def fresh(self) -> Iterator["Simulation"]:
        """Defaults and zeros inside. At the end, raises a Race if a copy to the host was never
        waited for, or if a page lock is left whose memory is gone.
        """
        self.reset()
        try:
            yield self
            self.settle()
            if waiting := sum(copy.unready is not None for copy in self.copies):
                raise Race(Race.NEVER_AWAITED, f"nobody waited for {waiting} copies to the host")
            left = [lock for lock in self.locks.items() if not _is_mapped(lock[0], lock[1][0])]
            for address, _ in left:
                del self.locks[address]
            if left:
                raise Race(Race.LOCK_LEFT, f"the memory of {len(left)} page locks is gone")
        finally:
            self.reset()

    def wait(self, past: Known, clock: float) -> None:
        """The host waits until `past` has ended, at the simulated second `clock`."""
        self.counts["waits"] += 1
        self.settle()
        self.host_clock = max(self.host_clock, clock)
        self._hear(past)

    def has_ended(self, past: Known, clock: float) -> bool:
        """Whether `past` has ended, as the host asks."""
        self.host_clock += self.query_seconds
        if clock <= self.host_clock:
            self._hear(past)
        return clock <= self.host_clock

    def _hear(self, past: Known) -> None:
        _learn(self.known, past)
        for copy in list(self.copies):
            if self.known.get(copy.stream, 0) >= copy.work:
                self.copies.remove(copy)
                copy.end()
        self._raise_found()

    def _raise_found(self) -> None:
        found, self.found = self.found, []
        if found:
            raise found[0]

    def settle(self) -> None:
        """Return freed memory. Raises a Race for memory that was freed too early."""
        while self.freed:
            block, until = self.freed.pop(), 0.0
            for (number, *_), work in block.uses.items():
                if block.home.knows(number, work):
                    continue
                if number in block.recorded:
                    until = max(until, block.recorded[number].clock)
                    continue
                why = f"{block.size} bytes were freed while stream {number} may still use them"
                self.found.append(Race(Race.FREED_EARLY, f"{why}: record_stream, or wait first"))
            self.freed_later.append((until, block.home.device.index, block.size))
        self._return_memory(self.host_clock)
        self._raise_found()

    def _return_memory(self, now: float) -> None:
        for until, index, size in self.freed_later:
            self.live[index] -= size if until <= now else 0
        self.freed_later = [later for later in self.freed_later if later[0] > now]

    def room(self, index: int) -> int:
        """Free bytes of a card."""
        return (UNBOUNDED if self.capacity is None else self.capacity) - self.live[index]

    def allocate(self, index: int, size: int) -> None:
        """Count `size` bytes on a card. If there is no room, waits first for memory that recorded
        streams use. Raises torch.OutOfMemoryError.
        """
        self.settle()
        waited = [later for later, at, _ in self.freed_later if at == index]
        if waited and size > self.room(index):
            self.counts["waits"] += 1
            self.host_clock = max(self.host_clock, *waited)
            self._return_memory(self.host_clock)
        if size > self.room(index):
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size} bytes on {KIND}:{index}: "
                f"{self.live[index]} of {self.capacity} bytes are allocated."
            )
        self.counts["allocations"] += 1
        self.live[index] += size
        self.peak[index] = max(self.peak[index], self.live[index])

    def launch(
        self,
        name: str,
        stream: Stream,
        reads: Iterable["OnCard"],
        writes: Iterable["OnCard"],
        copy_seconds: float | None = None,
    ) -> None:
        """Begin a work of `stream`: a copy that takes `copy_seconds`, or a kernel, which raises the
        error that a call of CUDA left behind in this thread.
        """
        self.settle()
        if copy_seconds is None and _thread.error:
            error, _thread.error = _thread.error, 0
            raise RuntimeError(f"CUDA error {error}: left behind by an earlier call, not by {name}")
        used = [(tensor, False) for tensor in reads] + [(tensor, True) for tensor in writes]
        for tensor, written in used:
            tensor.memory.block.check(name, stream, tensor.span, written)
        self.begun[stream.number] += 1
        for tensor, written in used:
            uses = tensor.memory.block.uses
            uses[stream.number, *tensor.span, written] = self.begun[stream.number]
        self.counts["launches"] += 1
        self.host_clock += self.launch_seconds
        begins = max(stream.clock, self.host_clock)
        stream.clock = begins + (self.kernel_seconds if copy_seconds is None else copy_seconds)


_thread: Final = _Thread()
card: Final = Simulation()


class OnCard(torch.Tensor):
    """A tensor on a card. raw: the CPU tensor whose memory stands for the card's."""

    raw: torch.Tensor
    memory: _Memory
    span: Span
    """The bytes of the allocation that it uses."""

    @staticmethod
    def __new__(cls: type["OnCard"], raw: torch.Tensor, index: int) -> "OnCard":
        # A view of an ordinary tensor has to be one too, in inference mode as well.
        with torch._C._InferenceMode(False):
            self = torch.Tensor._make_wrapper_subclass(
                cls,
                raw.size(),
                strides=raw.stride(),
                storage_offset=raw.storage_offset(),
                dtype=raw.dtype,
                device=torch.device(KIND, index),
            )
        self.raw, self.memory, self.span = raw, _Memory.of(raw, index), _span(raw)
        return self

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _operate(func, *args, **(kwargs or {}))

    def record_stream(self, stream: Any) -> None:
        self.memory.block.recorded[stream.number] = stream

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else str(self), spec)

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter  # type: ignore[override]
    def data(self, other: "OnCard") -> None:
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.raw, self.memory, self.span = other.raw.detach(), other.memory, other.span

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copy: Any = self.detach().clone().requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):  # how nn.Parameter marks what it wraps
                copy._is_param = True
            memo[id(self)] = copy
        return memo[id(self)]

    # With these two methods nn.Module.to keeps the identity of parameters, so that tied ones stay.
    def __tensor_flatten__(self) -> tuple[list[str], int]:
        return ["raw"], self.device.index

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], index: int, *_: Any) -> "OnCard":
        return OnCard(inner["raw"], index)


def _span(raw: torch.Tensor) -> Span:
    if raw.numel() == 0:
        return 0, 0
    last: int = sum((n - 1) * step for n, step in zip(raw.shape, raw.stride(), strict=True))
    first = int(raw.storage_offset())
    return first * raw.itemsize, (first + last + 1) * raw.itemsize


# ------------------------------------------------------------------------------------- operators

_LEFT_WHOLE: Final = {"scaled_dot_product_attention"}
"""Made of other operators, which would be chosen for a card: here the CPU's choice counts."""
_FREE: Final = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"),
}
_INDEXING: Final = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
_PRODUCTS: Final = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot"}


class _Operator:
    """What an operator does, by its schema."""

    def __init__(self, func: Any) -> None:
        self.name: str = func.overloadpacket.__name__
        arguments = enumerate(func._schema.arguments)
        self.written = [(n, a.name) for n, a in arguments if a.alias_info and a.alias_info.is_write]
        self.is_free = not self.written and (func.is_view or self.name in _FREE)
        self.tags = set(func.tags)
        composite = func.has_kernel_for_dispatch_key(torch.DispatchKey.CompositeImplicitAutograd)
        self.is_made_of_others = composite and self.name not in _LEFT_WHOLE

    def writes(self, args: Any, kwargs: dict[str, Any]) -> set[int]:
        """Ids of the arguments that it writes to."""
        values = [args[n] if n < len(args) else kwargs.get(name) for n, name in self.written]
        return {id(x) for value in values for x in (value if isinstance(value, list) else [value])}

    def waits(self, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether the host waits for the result: it is a number, or its shape depends on data."""
        if self.name in _INDEXING:
            masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
            # `x[mask] = number` fills
            return bool(masks) and (len(args) < 3 or args[2].numel() != 1)
        if self.name == "repeat_interleave":
            return kwargs.get("output_size") is None
        return bool(self.tags & {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


_operator = functools.cache(_Operator)


class _Arguments:
    """Tensors of one call. A class, since recursive closures would keep them alive in a cycle."""

    def __init__(self) -> None:
        self.given: dict[int, OnCard] = {}
        """id of the wrapped tensor -> the tensor on a card."""
        self.on_host: list[torch.Tensor] = []
        """Tensors of the host; single numbers are not among them: they come with a launch."""

    def unwrap(self, value: Any) -> Any:
        """What the CPU's kernel takes instead of `value`."""
        if isinstance(value, OnCard):
            self.given[id(value.raw)] = value
            return value.raw
        if isinstance(value, torch.Tensor) and value.dim():
            self.on_host.append(value)
        elif isinstance(value, list | tuple):
            return type(value)(map(self.unwrap, value))
        elif isinstance(value, torch.device) and value.type == KIND:
            return _CPU
        elif isinstance(value, torch.Generator):
            raise RuntimeError(f"Expected a {KIND!r} device type for generator but found 'cpu'")
        return value

    def wrap(self, value: Any, index: int) -> Any:
        """What a call returns for `value`, which the CPU's kernel returned."""
        if isinstance(value, torch.Tensor):
            return self.given[id(value)] if id(value) in self.given else OnCard(value, index)
        if isinstance(value, list | tuple):
            return type(value)(self.wrap(one, index) for one in value)
        return value

    def card(self, name: str, indices: Any, device: Device) -> int:
        """The card of all tensors; `indices` alone may be on the host."""
        found = {tensor.device.index for tensor in self.given.values()} or {_index(device)}
        strangers = [host for host in self.on_host if not any(host is i for i in indices)]
        if len(found) > 1 or strangers:
            names = [f"{KIND}:{index}" for index in sorted(found)] + ["cpu"] * bool(strangers)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} got "
                f"{' and '.join(names)}"
            )
        return found.pop()


def _operate(func: Any, *args: Any, **kwargs: Any) -> Any:
    """One operator with tensors on a card, or one that creates a tensor there."""
    operator = _operator(func)
    if operator.name in ("is_pinned", "_has_compatible_shallow_copy_type"):
        return operator.name != "is_pinned" and all(isinstance(x, OnCard) for x in args)
    if operator.is_made_of_others:  # in inference mode they arrive whole
        return func.decompose(*args, **kwargs)
    if operator.name == "_to_copy":
        return _converted(func, *args, **kwargs)
    if operator.name == "copy_":
        target, source, *blocking = args
        if not (type(target) is type(source) and target.device == source.device):
            return _copy(target, source, bool(blocking and blocking[0]))
    return _compute(func, args, kwargs)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Launch an operator on the current stream of the card that its tensors are on."""
    operator, arguments, device = _operator(func), _Arguments(), kwargs.get("device")
    raw_args = arguments.unwrap(args)
    raw_kwargs = {name: arguments.unwrap(value) for name, value in kwargs.items()}
    if device is not None and device.type != KIND:
        return func(*raw_args, **raw_kwargs)  # new_zeros(device="cpu"): nothing is read
    given, name = arguments.given.values(), operator.name
    index = arguments.card(name, args[1] if name in _INDEXING else (), device)
    stream = current_stream(index)
    if name == "_pin_memory":
        raise RuntimeError("Only dense CPU tensors can be pinned")
    if torch.Tag.inplace_view in operator.tags and name != "detach_":
        raise NotImplementedError(f"{name}: the shape of a tensor changes in place")
    if name in _PRODUCTS and not (raw_args[0].is_floating_point() or raw_args[0].is_complex()):
        raise RuntimeError(f'"{name}_cuda" not implemented for {raw_args[0].dtype}')
    if not operator.is_free:
        written = operator.writes(args, kwargs)
        reads = [tensor for tensor in given if id(tensor) not in written]
        card.launch(name, stream, reads, [tensor for tensor in given if id(tensor) in written])
    # Where the CPU has no kernel for what a card's kernel takes, integers and half precision:
    if name == "histc" and not raw_args[0].is_floating_point():
        raw_args = (raw_args[0].float(), *raw_args[1:])
    elif name in ("_softmax", "_log_softmax") and raw_args[2]:
        raw_args = (raw_args[0].float(), raw_args[1], False)
    result = func(*raw_args, **raw_kwargs)
    if operator.waits(args, kwargs):
        card.counts["bytes to host"] += args[0].itemsize
        stream.synchronize()
    for host in arguments.on_host:  # indices
        card.counts["pageable copies"] += 1
        card.counts["bytes to card"] += host.nbytes
        stream.synchronize()
    if any(tensor.shape != tensor.raw.shape for tensor in given):
        raise NotImplementedError(f"{name}: the shape of a tensor changed in place")
    return arguments.wrap(result, index)


# ---------------------------------------------------------------------------------------- copies


def _converted(func: Any, source: torch.Tensor, **how: Any) -> Any:
    """`aten._to_copy`: to another device, another dtype or both."""
    device: torch.device = how.pop("device", None) or source.device
    if device.type == KIND:
        device = torch.device(KIND, _index(device))
    if device == source.device:
        return _compute(func, (source,), how)
    non_blocking = how.pop("non_blocking", False)
    how = {name: value for name, value in how.items() if value is not None}
    raw = source.raw if isinstance(source, OnCard) else source
    made = torch.empty_like(raw, device=_CPU if device.type == KIND else device, **how)
    if device.type == "meta":
        return made
    if device.type == KIND:
        made = OnCard(made, device.index)
    elif non_blocking:  # torch locks its memory, too
        made = _page_locked(made)
    return _copy(made, source, non_blocking)


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
    """`target.copy_(source)` across devices."""
    if not target.numel():
        return target
    if isinstance(target, OnCard) and isinstance(source, OnCard):
        return _copy_between_cards(target, source)
    to_card = isinstance(target, OnCard)
    there, host = (target, source) if to_card else (source, target)
    assert isinstance(there, OnCard)
    stream, address, size = current_stream(there.device), host.data_ptr(), host.nbytes
    crossing = [
        c for c in card.copies if c.meets(address, size) and not (to_card and not c.unready)
    ]
    if not all(stream.knows(other.stream, other.work) for other in crossing):
        raise Race(Race.CROSSING_COPIES, "two streams copy from or to the same memory")
    # One asynchronous copy moves one stretch of memory. Others go through pageable memory.
    ordered = host.is_contiguous() or host.stride() == there.stride()
    is_one_stretch = ordered and _span(host)[1] - _span(host)[0] == size
    lock = _lock_of(host) if is_one_stretch else None
    seconds = size / (card.pageable_bandwidth if lock is None else card.locked_bandwidth)
    card.launch("copy_", stream, [] if to_card else [there], [there] if to_card else [], seconds)
    card.counts["bytes to card" if to_card else "bytes to host"] += size
    if lock is None:
        card.counts["pageable copies"] += 1
    if lock is None or not non_blocking:
        stream.synchronize()
        (there.raw if to_card else host).copy_(host if to_card else there.raw)
        return target
    if to_card:
        for other in crossing:  # copies to the host that end before this one begins
            card.copies.remove(other)
            other.end()
        crossing = []
        there.raw.copy_(host)
        data, unready = host, None
    else:
        data, unready = torch.empty_like(host, device=_CPU).copy_(there.raw), _unready(host)
    held, kept = ctypes.string_at(data.data_ptr(), size), None if lock[1] else host
    copy = _Copy(stream.number, card.begun[stream.number], address, held, unready, kept)
    for one in (*crossing, *([copy] if crossing else [])):
        one.crossed = True
    if unready:
        ctypes.memmove(address, unready, size)
    card.copies.append(copy)
    return target


def _copy_between_cards(target: OnCard, source: OnCard) -> OnCard:
    """Runs on the source's stream, ordered with the target's on both sides, as torch does."""
    here, there = current_stream(source.device), current_stream(target.device)
    here.wait_stream(there)
    card.launch("copy_", here, [source], [target], source.raw.nbytes / card.locked_bandwidth)
    card.counts["bytes between cards"] += source.raw.nbytes
    target.raw.copy_(source.raw)
    there.wait_stream(here)
    return target


def _unready(host: torch.Tensor) -> bytes:
    """What the host sees of a tensor before the copy into it has ended."""
    if not (host.is_floating_point() or host.is_complex()):
        return b"\xa5" * host.nbytes
    number = torch.full((1,), torch.nan, dtype=host.dtype, device=_CPU)
    return ctypes.string_at(number.data_ptr(), number.nbytes) * host.numel()


# ------------------------------------------------------------------------------------ page locks


def _lock_of(host: torch.Tensor) -> tuple[int, bool] | None:
    """The page lock of the memory of a host tensor."""
    start, size = host.data_ptr(), host.nbytes
    for address, lock in card.locks.items():
        if address <= start and start + size <= address + lock[0]:
            return lock
    return None


def _page_locked(like: torch.Tensor, device: Device = None) -> torch.Tensor:
    """A copy of a CPU tensor in page-locked memory."""
    first, end = _span(like)
    memory = np.empty(max(end - first, 1), np.uint8)
    address = memory.ctypes.data
    card.locks[address] = (memory.nbytes, False)
    weakref.finalize(memory, card.locks.pop, address, None).atexit = False
    flat = torch.from_numpy(memory)[: end - first].view(like.dtype)
    return flat.as_strided(like.shape, like.stride()).copy_(like)


def _is_mapped(address: int, size: int) -> bool:
    """Whether this process has memory at all these addresses."""
    start, asynchronously = address - address % mmap.PAGESIZE, 1
    whole = ctypes.c_size_t(address + size - start)
    return not _libc.msync(ctypes.c_void_p(start), whole, asynchronously)


class Runtime:
    """The calls of CUDA's runtime that torch offers by `torch.cuda.cudart()`; 0 is success."""

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        """Page-lock host memory."""
        if card.page_lock_refused:
            return self._failed(2)  # cudaErrorMemoryAllocation
        if not size or not _is_mapped(address, size):
            return self._failed(1)  # cudaErrorInvalidValue
        if address in card.locks:
            return self._failed(712)  # cudaErrorHostMemoryAlreadyRegistered
        card.locks[address] = (size, True)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        """End a page lock."""
        if not card.locks.get(address, (0, False))[1]:
            return self._failed(713)  # cudaErrorHostMemoryNotRegistered
        size, _ = card.locks.pop(address)
        if not _is_mapped(address, size):
            return self._failed(1)
        if used := [copy for copy in card.copies if copy.meets(address, size)]:
            card.copies = [copy for copy in card.copies if copy not in used]
            card.found.append(Race(Race.RELEASED_EARLY, f"{len(used)} copies still use the memory"))
        return 0

    def _failed(self, error: int) -> int:
        _thread.error = error
        return error


# ------------------------------------------------------------------------------------ torch.sim


def _index(device: Device) -> int:
    """The number of a card; the current one by default."""
    index = device if isinstance(device, int) else None
    if isinstance(device, str | torch.device):
        device = torch.device(device)
        if device.type != KIND:
            raise ValueError(f"{device} is not a device of {KIND}")
        index = device.index
    index = _thread.device if index is None else index
    if not 0 <= index < card.cards:
        raise RuntimeError(f"CUDA error: invalid device ordinal: {KIND}:{index} of {card.cards}")
    return index


_default_stream = functools.cache(Stream)


def default_stream(device: Device = None) -> Stream:
    return _default_stream(_index(device))


def current_stream(device: Device = None) -> Stream:
    """The stream on which this thread launches work of a card."""
    index = _index(device)
    return _thread.streams.get(index) or default_stream(index)


def set_stream(stream: Stream | None) -> None:
    if stream is not None:
        _thread.device = stream.device.index
        _thread.streams[_thread.device] = stream


def set_device(device: Device) -> None:
    _thread.device = _index(device)


@contextmanager
def _inside(change: Callable[[Any], None], to: Any) -> Iterator[None]:
    """Another current stream or card inside."""
    device, streams = _thread.device, dict(_thread.streams)
    change(to)
    try:
        yield
    finally:
        _thread.device, _thread.streams = device, streams


def synchronize(device: Device = None) -> None:
    """Wait for all work of a card."""
    streams = [stream for stream in card.streams if stream.device.index == _index(device)]
    past: Known = {}
    for stream in streams:
        _learn(past, stream.past())
    card.wait(past, max((stream.clock for stream in streams), default=0.0))


def mem_get_info(device: Device = None) -> tuple[int, int]:
    """Free and total bytes of a card."""
    card.settle()
    return card.room(_index(device)), UNBOUNDED if card.capacity is None else card.capacity


def memory_allocated(device: Device = None) -> int:
    """Live bytes of a card, with freed memory that recorded streams still use."""
    card.settle()
    return card.live[_index(device)]


def reset_peak_memory_stats(device: Device = None) -> None:
    card.peak[_index(device)] = memory_allocated(device)


def get_device_properties(device: Device = None) -> SimpleNamespace:
    name = f"simulated card {_index(device)}"
    return SimpleNamespace(name=name, total_memory=mem_get_info(device)[1], major=8, minor=0)


_module: Any = SimpleNamespace(
    Stream=Stream,
    Event=Event,
    stream=functools.partial(_inside, set_stream),
    device=functools.partial(_inside, set_device),
    set_stream=set_stream,
    set_device=set_device,
    current_stream=current_stream,
    default_stream=default_stream,
    current_device=lambda: _thread.device,
    device_count=lambda: card.cards,
    is_available=lambda: card.cards > 0,
    is_initialized=lambda: True,
    _is_in_bad_fork=lambda: False,
    synchronize=synchronize,
    empty_cache=card.settle,
    mem_get_info=mem_get_info,
    memory_allocated=memory_allocated,
    max_memory_allocated=lambda device=None: card.peak[_index(device)],
    reset_peak_memory_stats=reset_peak_memory_stats,
    get_device_properties=get_device_properties,
    get_device_name=lambda device=None: get_device_properties(device).name,
    is_bf16_supported=lambda: True,
    get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
    manual_seed_all=lambda seed: None,  # random numbers come from the CPU's generator
    manual_seed=lambda seed: None,
    get_rng_state=lambda device=None: torch.get_rng_state(),
    set_rng_state=lambda state, device=None: torch.set_rng_state(state),
    cudart=Runtime,
)


def _offer_page_locks(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A factory of tensors that takes `pin_memory`, which torch leaves to backends in C++."""

    @functools.wraps(factory)
    def make(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made = factory(*args, **kwargs)
        return made.pin_memory() if pin_memory else made

    return make


_library: Final = torch.library.Library("aten", "IMPL")


def _register() -> None:
    _setup_privateuseone_for_python_backend(KIND, backend_module=_module)
    for kernel in (
        *(aten.empty.memory_format, aten.empty_strided.default, aten.scalar_tensor.default),
        *(aten.full.default, aten.zeros.default, aten.ones.default, aten.eye.default, aten.eye.m),
        *(aten.arange.default, aten.arange.start, aten.arange.start_step),
        *(aten.tril_indices.default, aten.triu_indices.default),
        *(aten._to_copy.default, aten.copy_.default, aten.scaled_dot_product_attention.default),
    ):
        _library.impl(kernel, functools.partial(_operate, kernel), "PrivateUse1")
    _library.impl(aten._pin_memory.default, _page_locked, "CPU")
    _library.impl(aten.is_pinned.default, lambda x, device=None: _lock_of(x) is not None, "CPU")
    _device._device_constructors()  # caches the original functions, which it compares with
    for name in ("empty", "empty_like", "zeros", "ones", "full", "tensor", "rand", "randn"):
        setattr(torch, name, _offer_page_locks(getattr(torch, name)))
    for name in (
        *("synchronize", "current_stream", "set_stream", "empty_cache", "memory_allocated"),
        *("max_memory_allocated", "reset_peak_memory_stats"),
    ):
        setattr(torch.accelerator, name, getattr(_module, name))
    torch.accelerator.get_memory_info = mem_get_info
    torch.accelerator.set_device_index = set_device
    torch.accelerator.current_device_index = _module.current_device


_register()
