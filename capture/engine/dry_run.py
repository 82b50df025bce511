"""What a capture would do and the resources it needs, without writing to the store.

The model is loaded and the plan is made, since both decide the size. The largest batch of the plan
and the median one run through the backend: the first shows whether a batch fits into memory, and
the second, on a warm device, gives the speed.
"""

import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import pyarrow as pa

from lpp.capture.engine.heads import missing_head_bytes
from lpp.capture.engine.prepare import prepare
from lpp.capture.engine.run import uncommitted_shards
from lpp.capture.engine.run_cache import check_noted, request_key
from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.capture.models.device import card_memory, peak_of
from lpp.capture.plan.backend import Backend, Batch, Outputs
from lpp.capture.plan.batches import padded_tokens, shard_families, shard_groups, tokens_of
from lpp.capture.plan.epochs import (
    READ_BYTES_PER_SECOND,
    StoredChoice,
    epochs_from,
    row_choices,
)
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.planning import site_specs
from lpp.capture.plan.request import CaptureRequest
from lpp.capture.plan.sizes import (
    Size,
    available_memory,
    check_memory,
    check_room,
    format_memory,
    format_size,
    free_bytes,
    host_bytes,
    remaining,
    run_size,
)
from lpp.store.format.plan import Plan
from lpp.store.objects.place import Place, Url, place
from lpp.store.process.debugging import debugging
from lpp.store.progress import BLANK, Display
from lpp.store.store import open_if_any
from lpp.store.units import duration, short_bytes

_WIDTH = 80
LABEL_WIDTH = 11


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a capture would do, and what it needs."""

    plan: Plan
    carried: Sequence[str]
    """The extra columns of prompts, a line each."""
    part: Part
    store: Place
    uncommitted: int
    """Shards of the run that are not committed, whatever their part."""
    todo: int
    """Those of `uncommitted` that belong to `part`."""
    tokens: int
    """Tokens of the shards of `todo`."""
    batches: int
    """Batches of the shards of `todo`."""
    padding: float
    """Share of padding in the tokens of `batches`: 0 in vLLM, which pads nothing."""
    disk: Size
    """Of the whole run."""
    disk_needed: int
    """Bytes that `todo` and the head take, approximately."""
    head_bytes: int
    """Bytes of the head that is still to be written; 0 for none."""
    disk_free: int | None
    memory_needed: int
    """Bytes of shard buffers."""
    memory_available: int | None
    assumed: bool
    """Whether the model has not written yet, so that lengths and the run's id are unknown."""
    tokens_per_second: float | None
    """Speed of the forward passes alone; None if nothing is left to do."""
    card_peak: int | None
    """Bytes that the model and its two largest batches took on a card; None where none was used."""
    choices: Sequence[StoredChoice]
    """What could be stored, of the whole run, to train on instead of computing it again."""

    def message(self) -> str:
        """For the user, in lines of 80 columns where ids allow."""
        indent = " " * LABEL_WIDTH
        lines = []
        for label, text in self._rows():
            start = f"{label:<{LABEL_WIDTH}}"
            lines += textwrap.wrap(
                text,
                _WIDTH,
                initial_indent=start,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        return "\n".join(lines)

    def check(self) -> None:
        """Raise MachineError if the capture would: too little disk or memory."""
        check_room(self.disk_needed, self.disk_free, self.store)
        if self.todo:
            check_memory(self.memory_needed, self.memory_available)

    def _rows(self) -> Iterator[tuple[str, str]]:
        plan, compute = self.plan, self.plan.compute
        seed = plan.model.untrained_seed
        untrained = "" if seed is None else f", untrained (seed {seed})"
        yield "run", "not known before the model has written" if self.assumed else plan.run_id
        yield (
            "model",
            f"{plan.model.id}{untrained}: {compute.dtype} in {compute.backend} on {compute.device}",
        )
        written = plan.continuation
        context = plan.context if written is None else written.given_context
        cut = f"cut at {context:,} tokens (--context)"
        yield "prompts", f"{plan.prompts.count:,} of {plan.corpus.name}, {cut}"
        yield from (("", line) for line in self.carried)
        yield "tokens", f"{plan.prompts.tokens:,}, {self.tokens:,} to capture"
        if written is not None:
            yield "", f"up to {written.tokens:,} of each prompt written by the model"
        names = plan.site_names
        yield "sites", f"{len(names)}: {', '.join(names[:2])}{', ...' * (len(names) > 2)}"
        yield "shards", self._shards()
        padding = f", {self.padding:.1%} of all padding" if self.padding else ""
        yield (
            "batches",
            f"{self.batches:,} of at most {compute.batch_tokens:,} padded tokens{padding}",
        )
        yield "on disk", format_size(self.disk, self.disk_free).removeprefix("on disk: ")
        if self.disk_needed:
            head = f", {short_bytes(self.head_bytes)} of them the head" if self.head_bytes else ""
            yield "", f"about {short_bytes(self.disk_needed)} still to write{head}"
        memory = format_memory(self.memory_needed, self.memory_available, compute.device)
        yield "in memory", f"{memory.removeprefix('in memory: ')}, beside the model and its batches"
        if self.card_peak is not None:
            total = card_memory(compute.device)[1]
            peak = f"{short_bytes(self.card_peak)} of {short_bytes(total)}"
            yield "on a card", f"{peak} with the model and its two largest batches (measured)"
        yield "time", self._time()
        if self.tokens_per_second is not None:
            yield from self._epochs(self.tokens_per_second)

    def _epochs(self, speed: float) -> Iterator[tuple[str, str]]:
        """From how many epochs of training on each choice is reading faster than computing."""
        pass_seconds = self.plan.prompts.tokens / speed
        yield (
            "epochs",
            "to train on rows: stored once and read in each epoch, or computed again in each? "
            f"Computing takes {_at_least_a_second(pass_seconds)} an epoch, at "
            f"{speed:,.0f} tokens/s. Sizes are approximate, after compression; reading is "
            f"at {short_bytes(round(READ_BYTES_PER_SECOND))}/s, which is assumed.",
        )
        yield "", f"{'what is stored':<18}{'on disk':>10}{'time to read':>14}   storing is faster"
        for choice in self.choices:
            read_seconds = choice.size / READ_BYTES_PER_SECOND
            least = epochs_from(pass_seconds, read_seconds)
            wins = "never: compute again" if least is None else f"from {least:,} epochs on"
            size, reading = short_bytes(choice.size), _at_least_a_second(read_seconds)
            yield "", f"{choice.name:<18}{size:>10}{reading:>14}   {wins}"

    def _shards(self) -> str:
        n = self.plan.n_shards
        committed = n - self.uncommitted
        text = f"{n}, {committed} committed, {self.todo} to capture"
        return text if self.part == WHOLE else f"{text} as part {self.part}"

    def _time(self) -> str:
        if self.tokens_per_second is None:
            return "none: every shard is committed"
        seconds = self.tokens / self.tokens_per_second
        return (
            f"about {duration(seconds)} at {self.tokens_per_second:,.0f} tokens/s, estimated from "
            f"two batches at most; forward passes alone"
            f"{', without what the model writes first' * self.assumed}"
        )


def dry_run(
    root: Url,
    request: CaptureRequest,
    *,
    part: Part = WHOLE,
    display: Display = BLANK,
) -> DryRun:
    """Load the model of `request`, make the plan, measure the speed; leaves the store as it is.

    Raises what `lpp.capture.engine.run.capture_into` raises before it writes, except for too little
    disk or memory, which `DryRun.check` raises.
    """
    open_if_any(root)
    check_noted(root, request_key(request), request)
    with display.step("prepare", 1, "model") as bar:
        prepared = prepare(request, root=root, writes=False, progress=bar, quiet=not debugging())
        bar.advance()
    plan, prompts = prepared.plan, prepared.prompts
    with closing(prepared):
        store = open_if_any(root)
        if store is not None and plan.run_id in store.runs:
            store.runs[plan.run_id].require_columns(request.corpus.columns)
        uncommitted = uncommitted_shards(root, plan, WHOLE)
        mine = part.shards(plan.n_shards)
        todo = [shard for shard in uncommitted if shard in mine]
        lengths = prompts["n_tokens"].to_numpy()
        batches, padded = _batch_tokens(plan, prompts, todo)
        tokens = tokens_of(plan, lengths, todo)
        every_site = replace(request, sites=("all",), stored_dtype={})
        peak, speed = _measured(plan, prompts, prepared.backend, batches)
        of_head = missing_head_bytes(root, plan, request)
        return DryRun(
            plan=plan,
            carried=prepared.carried,
            part=part,
            store=place(root),
            uncommitted=len(uncommitted),
            todo=len(todo),
            tokens=tokens,
            batches=len(batches),
            padding=1 - tokens / padded if padded and plan.compute.backend != "vllm" else 0,
            disk=run_size(plan),
            disk_needed=remaining(plan, lengths, todo) + of_head,
            head_bytes=of_head,
            disk_free=free_bytes(place(root)),
            memory_needed=host_bytes(plan, lengths),
            memory_available=available_memory(),
            assumed=prepared.assumed,
            tokens_per_second=speed,
            card_peak=peak,
            choices=[*row_choices(plan, site_specs(every_site, prepared.backend))],
        )


def _batch_tokens(
    plan: Plan, prompts: pa.Table, shards: Sequence[int]
) -> tuple[list[tuple[int, int, int]], int]:
    """(tokens, shard, number within the shard) of every batch of `shards`, fewest tokens first; and
    the tokens of all batches with padding.
    """
    batches, padded = [], 0
    for shard in shards:
        first, end = plan.shards[shard : shard + 2]
        lengths = prompts["n_tokens"].slice(first, end - first).to_pylist()
        family_of = shard_families(plan, prompts, shard)
        for number, group in enumerate(shard_groups(plan, prompts, shard)):
            batches.append((sum(lengths[i] for i in group), shard, number))
            padded += padded_tokens(lengths, group, family_of)
    return sorted(batches), padded


def _measured(
    plan: Plan, prompts: pa.Table, backend: Backend, batches: Sequence[tuple[int, int, int]]
) -> tuple[int | None, float | None]:
    """Most bytes on a card, of two of the largest batch, since a capture has two under way; tokens
    a second of the median batch, once the largest has run. None without batches.
    """
    if not batches:
        return None, None
    outputs, memory = Outputs.of(plan), ShardBuffer(plan, prompts, backend.allocate)

    def batch(place: tuple[int, int, int]) -> Batch:
        _, shard, number = place
        return next(islice(memory.batches(shard), number, None))

    largest, median = batches[-1], batches[(len(batches) - 1) // 2]
    first = batch(largest)
    seconds, peak = _seconds(backend, [first], outputs), None
    if plan.compute.backend == "torch":  # vLLM takes a fixed share of a card when it starts
        peak = peak_of(plan.compute.device, lambda: _seconds(backend, [first] * 2, outputs))
    if median != largest:
        seconds = _seconds(backend, [batch(median)], outputs)
    return peak, median[0] / seconds


def _at_least_a_second(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "under 1 s"


def _seconds(backend: Backend, batches: Sequence[Batch], outputs: Outputs) -> float:
    start = time.monotonic()
    for _ in backend.capture(batches, outputs):
        pass
    return max(time.monotonic() - start, 1e-9)
