"""Mistakes that a card punishes and a CPU forgives, planted in the torch backend: each is found.

A mistake changes a line of the product's source. A check runs the backend on a simulated card
(`simulated_card`) and raises when it sees something wrong; without a mistake every check passes.
"""

import copy
import gc
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from backend_contract import captured, make_batch, random_prompts, torch_backend
from simulated_card import Race, card

from lpp.capture.backends import batch_rows, host_memory
from lpp.capture.backends import torch_backend as backend_file
from lpp.capture.backends.batch_rows import BatchRows, CopyStreams, Picked
from lpp.capture.backends.logit_statistics import fused
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.models.device import KINDS
from lpp.capture.plan.backend import Batch, Captured
from lpp.store.errors import MachineError

BATCHES = 3
NOTHING = "nothing"
TWO_DEVICES = "tensors of two devices"
LEFT_BEHIND = "an error left behind"
WRONG_ROWS, WRONG_STATISTICS = "wrong rows", "wrong statistics"
WAITS, PAGEABLE = "waits of the host", "pageable copies"
MEMORY = "memory"


class Found(Exception):  # noqa: N818
    """What a check saw."""


@pytest.fixture(autouse=True)
def _kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "sim", KINDS["cuda"])


@dataclass(frozen=True)
class Case:
    """A tiny model on the CPU, batches, and the CPU's results."""

    model: Any
    batches: Sequence[Batch]
    expected: Sequence[Captured]

    def on_card(self, spread: bool = False) -> TorchBackend:
        """The backend on a copy of the model, on one card or spread over two."""
        model = copy.deepcopy(self.model)
        if spread:
            first = dict.fromkeys(("model.embed_tokens", "model.layers.0"), "sim:0")
            rest = ("model.layers.1", "model.layers.2", "model.norm", "model.rotary_emb", "lm_head")
            model = accelerate.dispatch_model(model, {**first, **dict.fromkeys(rest, "sim:1")})
        else:
            model.to("sim")
        return torch_backend(model)

    def compare(self, backend: TorchBackend, batches: int = BATCHES, close: float = 0) -> None:
        """Capture; raise Found unless rows are the CPU's, within `close`, and statistics alike."""
        given = self.batches[:batches]
        found = captured(backend, given, backend.sites.names)
        for mine, theirs in zip(found, self.expected, strict=False):
            if mine.failed:
                raise Found(MEMORY)
            for site, rows in theirs.batch.hidden.items():
                if not np.allclose(mine.batch.hidden[site], rows, rtol=0, atol=close):
                    raise Found(WRONG_ROWS)
            for name, values in theirs.statistics.items():
                if not np.allclose(mine.statistics[name], values, atol=1e-5, equal_nan=True):
                    raise Found(WRONG_STATISTICS)
            if mine.not_finite != {}:
                raise Found(WRONG_STATISTICS)


@pytest.fixture(scope="module")
def case(tiny_model: Callable[[str], Any]) -> Case:
    """Three batches of a tiny Llama."""
    model = tiny_model("llama")
    batches = [
        make_batch(random_prompts(131, [9, 9, 9, 8], seed=n), first=9 * n, shard=n)
        for n in range(BATCHES)
    ]
    backend = torch_backend(model)
    return Case(model, batches, list(captured(backend, batches, backend.sites.names)))


def steady(case: Case) -> None:
    """Right results, one wait of the host for each batch, and no pageable copy."""
    backend = case.on_card()
    card.counts.clear()
    case.compare(backend)
    if card.counts["waits"] > BATCHES + card.counts["pageable copies"]:
        raise Found(WAITS)
    if card.counts["pageable copies"]:
        raise Found(PAGEABLE)


def spread(case: Case) -> None:
    """Right results of a model whose blocks are on two cards."""
    case.compare(case.on_card(spread=True))


def halved(case: Case) -> None:
    """Right results on a card with half of the memory that a batch needs beside the model."""
    backend, sim = case.on_card(), torch.get_device_module("sim")
    gc.collect()  # tensors of errors that other tests caught
    weights = sim.memory_allocated()
    sim.reset_peak_memory_stats()
    case.compare(backend, 1)
    card.capacity = weights + (sim.max_memory_allocated() - weights) // 2
    try:
        case.compare(backend, 1, close=1e-4)  # a product of another shape is rounded otherwise
    except MachineError as error:
        raise Found(MEMORY) from error
    if not backend._noted:
        raise AssertionError("the batch was not halved")


def unlocked(case: Case) -> None:
    """Right results where the system refuses page locks."""
    backend = case.on_card()
    card.page_lock_refused = True
    case.compare(backend)


def seen_by(check: Callable[[Case], None], case: Case) -> str:
    """What a check on a fresh card sees."""
    try:
        with card.fresh():
            check(case)
    except Race as race:
        return race.hazard
    except Found as found:
        return str(found)
    except RuntimeError as error:
        for name, words in ((TWO_DEVICES, "on the same device"), (LEFT_BEHIND, "CUDA error")):
            if words in str(error):
                return name
        raise
    return NOTHING


@dataclass(frozen=True)
class Mistake:
    """Lines of a function, what a mistake makes of them, the check that finds it, and its name."""

    function: Any
    lines: dict[str, str]
    check: Callable[[Case], None]
    seen: str


MISTAKES = {
    "the copy stream does not wait for the pass": Mistake(
        CopyStreams.copy,
        {"stream.wait_stream(module.current_stream(device))": "pass"},
        *(steady, Race.UNORDERED_READ),
    ),
    "rows are freed without record_stream": Mistake(
        CopyStreams.copy, {"values.record_stream(stream)": "pass"}, steady, Race.FREED_EARLY
    ),
    "the stream of the pass copies": Mistake(
        CopyStreams.copy, {"with module.stream(stream):": "if True:"}, steady, Race.NEVER_AWAITED
    ),
    "a number is read in the pass": Mistake(
        BatchRows.take,
        {"indices = picked.on(flat.device)": "indices = picked.on(flat.device); indices[0].item()"},
        *(steady, WAITS),
    ),
    "a list is made in the pass": Mistake(
        BatchRows.take,
        {"indices = picked.on(flat.device)": "indices = picked.on(flat.device); indices.tolist()"},
        *(steady, PAGEABLE),
    ),
    "a condition depends on values": Mistake(
        BatchRows.take,
        {
            "self._streams.copy(rows, targets)": "rows.isnan().any() and print('NaN'); "
            "self._streams.copy(rows, targets)"
        },
        *(steady, WAITS),
    ),
    "copies wait for each other": Mistake(CopyStreams.copy, {", waits=False": ""}, steady, WAITS),
    "a tensor is made on the CPU": Mistake(
        fused.fused_reduction,
        {"torch.arange(width, device=logits.device)": "torch.arange(width)"},
        *(steady, TWO_DEVICES),
    ),
    "ids come from pageable memory": Mistake(
        batch_rows.to_device, {".pin_memory()": ""}, steady, PAGEABLE
    ),
    "statistics go to pageable memory": Mistake(
        BatchRows._to_host, {"pin_memory=locked": "pin_memory=False"}, steady, PAGEABLE
    ),
    "a page-locked buffer is used again at once": Mistake(
        batch_rows.to_device,
        {
            "return values.pin_memory().to(device, non_blocking=True)": "buffer = "
            "values.pin_memory(); there = buffer.to(device, non_blocking=True); buffer.fill_(5)\n"
            "    return there"
        },
        *(steady, Race.CHANGED_SOURCE),
    ),
    "rows are changed in place after their copy began": Mistake(
        BatchRows.take,
        {"self._streams.copy(rows, targets)": "self._streams.copy(rows, targets); rows.mul_(2)"},
        *(steady, Race.UNORDERED_WRITE),
    ),
    "rows are read before the wait": Mistake(
        backend_file._finished, {"rows.wait()": "pass"}, steady, WRONG_ROWS
    ),
    "marks are recorded before the last copies": Mistake(
        BatchRows.finish,
        {
            "self._marks = self._streams.marks()": "pass",
            "order = None": "order, self._marks = None, self._streams.marks()",
        },
        *(steady, WRONG_STATISTICS),
    ),
    "the page lock is never released": Mistake(
        host_memory.page_lock,
        {"weakref.finalize(memory, _unlock, address, device)": "pass"},
        *(steady, Race.LOCK_LEFT),
    ),
    "a refused page lock leaves its error behind": Mistake(
        host_memory.page_lock, {"_clear_error(device)": "pass"}, unlocked, LEFT_BEHIND
    ),
    "an index is on the wrong card": Mistake(
        Picked.on,
        {"return self._on[device]": "return next(iter(self._on.values()))"},
        *(spread, TWO_DEVICES),
    ),
    "only one of two cards is waited for": Mistake(
        CopyStreams.marks,
        {"for stream in self._streams.values()": "for stream in [*self._streams.values()][:1]"},
        *(spread, WRONG_ROWS),
    ),
    "the error keeps tensors alive while halves run": Mistake(
        TorchBackend.attempt,
        {
            "if not out_of_memory(error):": "self._kept = error\n"
            "        if not out_of_memory(error):"
        },
        *(halved, MEMORY),
    ),
}


def plant(monkeypatch: pytest.MonkeyPatch, mistake: Mistake) -> None:
    """Replace the code of a function. Every module that imported it runs the new code."""
    function = inspect.unwrap(mistake.function)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in mistake.lines.items():
        assert source.count(old) == 1, f"{function.__qualname__} has no line {old!r}"
        source = source.replace(old, new)
    made: dict[str, Any] = {}
    exec(source, dict(function.__globals__), made)
    monkeypatch.setattr(function, "__code__", made[function.__name__].__code__)


def slow_if_halved(value: Any, check: Callable[[Case], None]) -> Any:
    """Halving collects garbage, of everything that the test process holds."""
    return pytest.param(value, marks=pytest.mark.slow) if check is halved else value


@pytest.mark.parametrize(
    "check", [slow_if_halved(c, c) for c in (steady, spread, halved, unlocked)]
)
def test_without_a_mistake_nothing_is_seen(check: Callable[[Case], None], case: Case) -> None:
    assert seen_by(check, case) == NOTHING


@pytest.mark.parametrize("name", [slow_if_halved(n, m.check) for n, m in MISTAKES.items()])
def test_a_mistake_is_seen(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, MISTAKES[name])
    assert seen_by(MISTAKES[name].check, case) == MISTAKES[name].seen
