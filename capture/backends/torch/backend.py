"""Capture with hooked torch: one forward pass of the trunk, the unembedding in tiles.

Prompts of a batch are padded on the right, without a mask: in a causal model no token sees what
comes after it, so the padding changes nothing (tests prove it for each family) and attention
keeps its fast causal kernel. Padding rows are dropped in the hook, before anything is copied.

The unembedding never runs over a whole batch: its logits would be T x V floats, out of every
cache. It runs on tiles of the `final` rows, which are reduced to eight numbers each where they
were made.

On a GPU each site travels to the host on a stream of its own, into pinned buffers that are kept:
three sets of `batch tokens x width x itemsize` bytes for each site, so that one batch is computed
while the one before is copied and the one before that goes into its shard. For a plan that keeps
moments as many sets of rows stay on the device, and without `both` none travels.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import torch

from lpp.capture.backends.logit_statistics import logit_statistics
from lpp.capture.backends.torch.device_rows import rows_holder
from lpp.capture.backends.torch.halving import halves, joined, own_copy, without_rows
from lpp.capture.backends.torch.host_copy import HostRows
from lpp.capture.models.anatomy import forward_inputs, input_device
from lpp.capture.models.machine import out_of_memory
from lpp.capture.models.sites import ModelSites, capture_sites
from lpp.capture.models.unembedding import find_unembedding
from lpp.capture.plan.backend import Batch, Captured
from lpp.store.arrays.layout import NUMPY_DTYPE
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import Keep, StoredDtype

TORCH_DTYPE: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
HOPELESS: Final = 8
"""Prompts that may fail alone before any has run: then it is the model that does not fit."""

_log = logging.getLogger("lpp.capture")

SLOTS: Final = 3
"""Batches under way: one that is computed, one that was, and one whose rows go into their shard."""


class TorchBackend:
    """Runs a transformers model. Implements `lpp.capture.plan.backend.Backend`.

    wanted: the sites to capture, in any order. keep: what the plan keeps of their rows. Raises
    InputError(UNSUPPORTED_MODEL) for a model whose logits are not understood.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        sites: ModelSites,
        wanted: Sequence[str],
        stored_dtype: StoredDtype,
        keep: Keep = "rows",
    ) -> None:
        self._sites = sites
        self._wanted = tuple(wanted)
        self._unembed = find_unembedding(model, sites)
        self._device = input_device(model)
        dtype = TORCH_DTYPE[stored_dtype]
        self._stored_dtype = stored_dtype
        self._fitted = self._told = False
        self._keep = keep
        self._slots = [rows_holder(self._device, dtype, keep) for _ in range(SLOTS)]

    def capture(self, batches: Iterable[Batch]) -> Iterator[Captured]:
        """Yield each batch once the next is launched: a GPU then computes while this one is read.

        A batch that does not fit into memory runs in halves, down to single prompts; one that does
        not fit even alone has failed, unless none ever fitted: MachineError(NO_MEMORY).
        """
        held: list[Captured] = []  # prompts that failed before any ran
        under_way: Callable[[], Captured] | None = None
        for number, batch in enumerate(batches):
            coming = self._run(batch, self._slots[number % SLOTS])
            if under_way is not None:
                yield from self._fitting(held, under_way())
            under_way = coming
        if under_way is not None:
            yield from self._fitting(held, under_way())
        if held:
            raise memory_error(held[0].batch)

    def _fitting(self, held: list[Captured], captured: Captured) -> Iterator[Captured]:
        """`captured`, after what was held back until something fitted."""
        held.append(captured)
        if self._fitted:
            yield from held
            held.clear()
        elif sum(len(one.failed) for one in held) >= HOPELESS:
            raise memory_error(held[0].batch)

    def _run(self, batch: Batch, host: HostRows) -> Callable[[], Captured]:
        """Launch a batch; what gives its rows, once it is asked."""
        why = self._launched(batch, host)
        if not why:
            return lambda: _captured(batch, host)
        if not self._told:
            _log.warning("%s: it runs in halves, as others will.", memory_error(batch, short=True))
            self._told = True
        captured = self._smaller(batch, host, why)
        return lambda: captured

    def _smaller(self, batch: Batch, host: HostRows, why: str) -> Captured:
        """The rows of a batch that did not fit, from as few pieces as it takes."""
        if len(batch.lengths) == 1:
            return self._failed(batch, why)
        parts = []
        for half in halves(batch):
            why = self._launched(half, host)
            if why:
                parts.append(self._smaller(half, host, why))
            else:
                parts.append(own_copy(_captured(half, host)))
        return joined(batch, parts)

    def _failed(self, batch: Batch, why: str) -> Captured:
        """Zeros for a prompt that does not fit even alone, where its rows would be."""
        widths = {site: self._sites.width(site) for site in self._wanted}
        tokens, dtype = len(batch.token_ids), TORCH_DTYPE[self._stored_dtype]
        stay = widths if self._keep != "rows" else {}
        return without_rows(
            batch,
            widths if self._keep != "moments" else {},
            NUMPY_DTYPE[self._stored_dtype],
            why,
            {site: torch.zeros((tokens, width), dtype=dtype) for site, width in stay.items()},
        )

    def _launched(self, batch: Batch, host: HostRows) -> str:
        """Launch a batch; what the allocator said where it does not fit, else nothing."""
        try:
            self._launch(batch, host)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            why = (str(error).strip() or "out of memory").splitlines()[0][:200]
        else:
            self._fitted = True
            return ""
        # Only here: the error held the frames of the pass, and they its tensors.
        host.begin()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return why

    @torch.inference_mode()
    def _launch(self, batch: Batch, host: HostRows) -> None:
        ids, rows = padded(batch)
        # All that travels to the device does so before the pass: a copy after it would wait for it.
        real = RealRows(rows, self._device)
        asked = RealRows(rows[torch.from_numpy(batch.asked)], self._unembed.device)
        next_ids = torch.from_numpy(batch.next_ids.astype(np.int64)).to(self._unembed.device)
        host.begin()

        def keep(site: str, state: torch.Tensor) -> None:
            host.copy(site, real.of(state))

        with capture_sites(self._sites, self._wanted, keep):
            output = self._sites.trunk(**forward_inputs(ids.to(self._device)))
        host.finish(logit_statistics(asked.of(output[0]), self._unembed, next_ids))


class RealRows:
    """Picks the rows of a padded batch that hold tokens; each device gets their indices once."""

    def __init__(self, indices: torch.Tensor, device: torch.device) -> None:
        self._indices = indices.to(device)
        self._on = {device: self._indices}

    def of(self, state: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, d) -> (T, d), a copy on the same device."""
        if state.device not in self._on:
            self._on[state.device] = self._indices.to(state.device)
        return state.reshape(-1, state.shape[-1]).index_select(0, self._on[state.device])


def padded(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, longest) token ids, and the (T,) places of the real ones when laid flat.

    The padding repeats each prompt's first token: any token does, and a tokenizer's own padding
    token would make some models warn about a missing mask.
    """
    lengths = np.asarray(batch.lengths)
    starts = np.cumsum(lengths) - lengths
    longest = int(lengths.max())
    column = np.arange(longest)
    source = np.where(column < lengths[:, None], starts[:, None] + column, starts[:, None])
    places = np.flatnonzero(column < lengths[:, None])
    return torch.from_numpy(batch.token_ids[source].astype(np.int64)), torch.from_numpy(places)


def _captured(batch: Batch, host: HostRows) -> Captured:
    return Captured(
        batch=batch,
        hidden=host.arrays(),
        statistics=host.statistics(),
        on_device=host.tensors(),
    )


def memory_error(batch: Batch, *, short: bool = False) -> MachineError:
    """The error for a batch that does not fit: which, and what helps. short: which alone."""
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
