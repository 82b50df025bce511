"""Capture with hooked torch: one forward pass of the trunk, the unembedding in tiles.

Prompts of a batch are padded on the right, without a mask. In a causal model no token depends on
later ones, so the padding changes nothing but last bits (tests prove it for each family; attention
sums in blocks that depend on the padded length) and attention keeps its fast causal kernel. The
hook drops padding rows when it selects the rows.

The unembedding never runs over a whole batch: its logits would be T x V floats, more than any cache
holds. It runs on tiles of the `final` rows, each of which is reduced to eight numbers a row at
once.

Each batch is launched before the previous one is returned: a GPU computes one batch while it still
copies the rows of the other. If a batch does not fit into memory, it is run in halves, down to
single prompts. The plan chose the batch only for speed, and its halves give the same rows, except
for the last bits of a product with another shape.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.batch_rows import BatchRows, CopyStreams, Picked, to_device
from lpp.capture.backends.host_memory import host_memory
from lpp.capture.backends.logit_statistics import logit_statistics
from lpp.capture.backends.torch_passes import (
    Pass,
    can_reuse,
    inputs_after,
    inputs_kept,
    passes,
    without_packing,
)
from lpp.capture.backends.torch_writer import write_in_torch
from lpp.capture.models.device import KINDS, free_cached, kind_of
from lpp.capture.models.load import adopt_model, load_model
from lpp.capture.models.machine import explained, out_of_memory
from lpp.capture.models.spec import LoadedModel, Model, ModelSpec
from lpp.capture.models.structure.anatomy import forward_inputs, input_device
from lpp.capture.models.structure.find_sites import check_sites, find_sites
from lpp.capture.models.structure.head import head_content
from lpp.capture.models.structure.sites import SiteModules, Sites, hooked
from lpp.capture.models.structure.unembedding import find_unembedding
from lpp.capture.plan.backend import Batch, Beginning, Captured, Outputs, Writing, Written
from lpp.capture.plan.planning import check_context, compute_info
from lpp.capture.plan.request import CaptureRequest
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import ComputeInfo
from lpp.store.format.tables import STATISTICS, TOKENS_SCHEMA
from lpp.store.progress import SILENT, Progress
from lpp.store.shared.logits import HeadContent

HOPELESS: Final = 8
"""Prompts that may fail one by one before any has run; after that, the model itself does not
fit."""

_log = logging.getLogger("lpp.capture")


class TorchBackend:
    """A transformers model, its sites found and checked. Implements `plan.backend.Backend`.

    model: loaded, as `load_model` returns it. Raises InputError(UNSUPPORTED_MODEL) for a model
    whose blocks or logits are not understood.
    """

    def __init__(self, model: Model, compute: ComputeInfo) -> None:
        self.model, self.compute = model, compute
        self._modules: SiteModules = find_sites(model.module)
        check_sites(model.module, self._modules)
        self._unembed = find_unembedding(model.module, self._modules)
        self._device = input_device(model.module)
        self._ran = self._noted = False

    @classmethod
    def load(
        cls,
        request: CaptureRequest,
        *,
        loaded: LoadedModel | None = None,
        progress: Progress = SILENT,
        quiet: bool = True,
    ) -> "TorchBackend":
        """Load the model that `request` names, unless it is `loaded`. quiet: keep the libraries'
        warnings off stderr.
        """
        if loaded is None:
            model = load_model(request.model, progress=progress, quiet=quiet)
        else:
            model = adopt_model(loaded, request.model, quiet=quiet)
        check_context(model, request)
        device = input_device(model.module).type
        if device not in KINDS:
            raise MachineError(
                f"the model was put on {device}, where capture does not run. "
                f"Repeat without --device-map, with --device {' or '.join(KINDS)}.",
                kind=ErrorKind.NO_DEVICE,
            )
        compute = compute_info(
            request,
            model,
            backend="torch",
            device=device,
            attention=str(model.module.config._attn_implementation),
            device_map=request.model.device_map,
            versions={name: version(name) for name in _computing(request.model)},
        )
        with explained(model.info.id, request.model.device):  # its first passes
            return cls(model, compute)

    @property
    def sites(self) -> Sites:
        """The sites of the model."""
        return self._modules.sites

    @cached_property
    def reuses(self) -> bool:
        """Whether a branch can use the keys and values of the prompt that it branches off."""
        return can_reuse(self.model.module, self._modules.trunk)

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """Host memory, page-locked if the model is on a GPU."""
        return host_memory(size, self._device)

    def write(self, beginnings: Sequence[Beginning], how: Writing) -> Iterator[Written]:
        """Continue every prompt, a group at a time.

        Raises MachineError(NO_MEMORY) for a prompt that does not fit even alone.
        """
        budget = self.compute.batch_tokens or None
        return write_in_torch(self.model.module, self._device, beginnings, how, budget)

    def head(self) -> HeadContent | str:
        """The unembedding in host memory, or why it cannot be stored."""
        return head_content(self._unembed)

    def close(self) -> None:
        """Do nothing: the model is freed with its last reference."""

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        """Yield each batch once the next is launched.

        A batch that does not fit into memory runs in halves, down to single prompts. A prompt that
        does not fit even alone has failed. Raises MachineError(NO_MEMORY) if none of a shard or of
        earlier ones fitted.
        """
        streams = CopyStreams()
        capture = _Capture(self, outputs, streams)
        waiting: list[Captured] = []  # prompts that failed before any ran
        finish: Callable[[], Captured] | None = None
        try:
            for batch in batches:
                launched = capture.launch(batch)
                if finish is not None:
                    yield from self._once_any_ran(waiting, finish())
                finish = launched
            if finish is not None:
                yield from self._once_any_ran(waiting, finish())
            if waiting:
                raise memory_error(waiting[0].batch)
        except BaseException:  # GeneratorExit too: who ends a capture frees the memory of its rows
            streams.wait()
            raise

    def _once_any_ran(self, waiting: list[Captured], captured: Captured) -> Iterator[Captured]:
        """`captured`, after the failed prompts that waited for a first prompt to fit."""
        waiting.append(captured)
        if self._ran:
            yield from waiting
            waiting.clear()
        elif captured.batch.ends_shard or sum(len(c.failed) for c in waiting) >= HOPELESS:
            raise memory_error(waiting[0].batch)

    def attempt(self, batch: Batch, outputs: Outputs, streams: CopyStreams) -> BatchRows | str:
        """Run a batch, or part of one; returns the allocator's message if it does not fit."""
        try:
            rows = self.forward(batch, outputs, streams)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            why = (str(error).strip() or "out of memory").splitlines()[0][:200]
        else:
            self._ran = True
            return rows
        streams.wait()  # or copies of the failed pass could land on the zeros of a prompt
        # Only here: until now the error held the frames of the pass, and they held its tensors and
        # rows.
        gc.collect()
        free_cached(self._device)
        if not self._noted and len(batch.lengths) > 1:
            _log.warning(
                "%s: it runs in halves, and so will later ones.", memory_error(batch, short=True)
            )
            self._noted = True
        return why

    @torch.inference_mode()
    def forward(self, batch: Batch, outputs: Outputs, streams: CopyStreams) -> BatchRows:
        """Run a batch; its rows and statistics are then being copied to the host."""
        rows = BatchRows(batch, outputs, streams)
        budget = self.compute.batch_tokens or kind_of(self._device).batch_tokens
        shares = bool(batch.before) and self.reuses
        trunk = self._modules.trunk
        following = batch.next_ids.astype(np.int64)
        cache: Any = None  # keys and values of the first pass, if other passes continue from them
        statistics, logit_rows = [], []
        for pass_ in passes(batch, shares=shares, budget=budget):
            # Copy everything to the device before the pass: a later copy would wait for the pass.
            ids = to_device(torch.from_numpy(pass_.ids), self._device)
            picked = Picked(torch.from_numpy(pass_.picked), self._device, pass_.spans)
            which, in_pass = _wanted_logits(batch, pass_)
            logit_picks = Picked(torch.from_numpy(pass_.picked[in_pass]), self._unembed.device, [])
            next_ids = to_device(torch.from_numpy(following[which]), self._unembed.device)
            if pass_.n_before.any():
                inputs = inputs_after(trunk, cache, pass_, ids)
            elif shares and cache is None:
                inputs, cache = inputs_kept(trunk, ids)
            else:
                inputs = forward_inputs(ids)
            taken = partial(rows.take, picked=picked)
            with without_packing(), hooked(self._modules, outputs.sites, taken):
                output = trunk(**inputs)
            final = output[0].reshape(-1, output[0].shape[-1])
            final = final.index_select(0, logit_picks.on(final.device))
            statistics.append(logit_statistics(final, self._unembed, next_ids))
            logit_rows.append(which)
        order = np.concatenate(logit_rows)
        in_order = len(logit_rows) == 1
        rows.finish(statistics, None if in_order else torch.from_numpy(order))
        return rows


class _Capture:
    """One run through `TorchBackend.capture`."""

    def __init__(self, backend: TorchBackend, outputs: Outputs, streams: CopyStreams) -> None:
        self._backend, self._outputs, self._streams = backend, outputs, streams

    def launch(self, batch: Batch) -> Callable[[], Captured]:
        """Launch a batch, or the part of it that fits; returns a function that waits for its rows
        and returns them.
        """
        outcome = self._backend.attempt(batch, self._outputs, self._streams)
        if isinstance(outcome, BatchRows):
            return partial(_finished, batch, outcome)
        if len(batch.lengths) == 1:
            return partial(_without_rows, batch, outcome)
        parts = [self.launch(half) for half in halves(batch)]
        return lambda: joined(batch, [finish() for finish in parts])


def _finished(batch: Batch, rows: BatchRows) -> Captured:
    rows.wait()
    return Captured(batch=batch, statistics=rows.statistics(), not_finite=rows.not_finite())


def _without_rows(batch: Batch, why: str) -> Captured:
    """Zeros for a prompt that does not fit even alone."""
    for rows in batch.hidden.values():
        rows[...] = 0
    statistics = {
        name: np.zeros(len(batch.logit_rows), TOKENS_SCHEMA.field(name).type.to_pandas_dtype())
        for name in STATISTICS
    }
    failed = dict.fromkeys(batch.prompt_ids, why)
    return Captured(batch=batch, statistics=statistics, failed=failed, not_finite={})


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first prompts and the rest, with the memory of each. batch: two prompts or more."""
    middle = len(batch.lengths) // 2
    return _part(batch, 0, middle), _part(batch, middle, len(batch.lengths))


def _part(batch: Batch, first: int, end: int) -> Batch:
    starts = np.cumsum([0, *batch.lengths])
    start, stop = int(starts[first]), int(starts[end])
    logit_rows = batch.logit_rows[(batch.logit_rows >= start) & (batch.logit_rows < stop)]
    return Batch(
        shard=batch.shard,
        prompt_ids=batch.prompt_ids[first:end],
        lengths=batch.lengths[first:end],
        token_ids=batch.token_ids[start:stop],
        logit_rows=logit_rows - start,
        hidden={site: rows[start:stop] for site, rows in batch.hidden.items()},
        ends_shard=batch.ends_shard and end == len(batch.lengths),
        before={p: batch.before[p] for p in batch.prompt_ids[first:end] if p in batch.before},
    )


def _wanted_logits(
    batch: Batch, pass_: Pass
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of a pass whose logits are wanted: their indices among `logit_rows`, and in the pass."""
    where = np.full(len(batch.token_ids), -1)
    where[batch.logit_rows] = np.arange(len(batch.logit_rows))
    logit_index = where[pass_.rows]
    in_pass = np.flatnonzero(logit_index >= 0)
    return logit_index[in_pass], in_pass


def joined(batch: Batch, parts: Sequence[Captured]) -> Captured:
    """Join the results of the parts of `batch`, in order, into its result."""
    failed: dict[int, str] = {}
    not_finite: dict[str, list[npt.NDArray[np.int64]]] = {}
    start = 0
    for part in parts:
        failed |= part.failed
        for site, rows in (part.not_finite or {}).items():
            not_finite.setdefault(site, []).append(rows + start)
        start += len(part.batch.token_ids)
    return Captured(
        batch=batch,
        statistics={
            name: np.concatenate([part.statistics[name] for part in parts]) for name in STATISTICS
        },
        failed=failed,
        not_finite=None
        if any(part.not_finite is None for part in parts)
        else {site: np.concatenate(rows) for site, rows in not_finite.items()},
    )


def memory_error(batch: Batch, *, short: bool = False) -> MachineError:
    """The error for a batch that does not fit, with advice. short: only which batch."""
    longest, count = max(batch.lengths), len(batch.lengths)
    prompts = "1 prompt" if count == 1 else f"{count} prompts"
    text = (
        f"out of memory on a batch of {prompts}, {count * longest} tokens with padding, in shard "
        f"{batch.shard}"
    )
    if not short:
        text += (
            ", and none before it fitted. Every committed shard is whole. Capture again with a "
            "shorter --context, fewer --sites, or --device-map auto (a plan of its own), or on a "
            "larger card."
        )
    return MachineError(text, kind=ErrorKind.NO_MEMORY)


def _computing(spec: ModelSpec) -> list[str]:
    """Distributions whose release could change a number."""
    spread = spec.device_map is not None or spec.quantization is not None
    return [
        *("lpp-engine", "torch", "transformers"),
        *(["accelerate"] if spread else []),
        *(["bitsandbytes"] if spec.quantization is not None else []),
    ]
