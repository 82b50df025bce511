"""Capture with hooked torch: one forward pass of the trunk, the unembedding in tiles.

Prompts of a batch are padded on the right, without a mask: in a causal model no token sees what
comes after it, so the padding changes nothing (tests prove it for each family) and attention
keeps its fast causal kernel. Padding rows are dropped in the hook, before anything is copied.

The unembedding never runs over a whole batch: its logits would be T x V floats, out of every
cache. It runs on tiles of the `final` rows, which are reduced to eight numbers each where they
were made.

On a GPU each site travels to the host on a stream of its own, into pinned buffers that are kept:
three sets of `batch tokens x width x itemsize` bytes for each site, so that one batch is computed
while the one before is copied and the one before that goes into its shard.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

from lpp.capture.anatomy import forward_inputs, input_device
from lpp.capture.backend import Batch, Captured
from lpp.capture.host_copy import HostRows, make_host
from lpp.capture.logit_stats import logit_statistics
from lpp.capture.machine import out_of_memory
from lpp.capture.sites import ModelSites, capture_sites
from lpp.capture.unembedding import find_unembedding
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.plan import StoredDtype

TORCH_DTYPE: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
SLOTS: Final = 3
"""Batches under way: one that is computed, one that was, and one whose rows go into their shard."""


class TorchBackend:
    """Runs a transformers model. Implements `lpp.capture.backend.Backend`.

    wanted: the sites to capture, in any order. Raises InputError(UNSUPPORTED_MODEL) for a model
    whose logits are not understood.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        sites: ModelSites,
        wanted: Sequence[str],
        stored_dtype: StoredDtype,
    ) -> None:
        self._sites = sites
        self._wanted = tuple(wanted)
        self._unembed = find_unembedding(model, sites)
        self._device = input_device(model)
        dtype = TORCH_DTYPE[stored_dtype]
        self._slots = [make_host(self._device, dtype) for _ in range(SLOTS)]

    def capture(self, batches: Iterable[Batch]) -> Iterator[Captured]:
        """Yield each batch once the next is launched: a GPU then computes while this one is read.

        Raises MachineError(NO_MEMORY) for a batch that does not fit.
        """
        under_way: tuple[Batch, HostRows] | None = None
        for number, batch in enumerate(batches):
            host = self._slots[number % SLOTS]
            with memory_named(batch):
                self._launch(batch, host)
            if under_way is not None:
                yield _captured(*under_way)
            under_way = (batch, host)
        if under_way is not None:
            yield _captured(*under_way)

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
    return Captured(batch=batch, hidden=host.arrays(), statistics=host.statistics())


@contextmanager
def memory_named(batch: Batch) -> Iterator[None]:
    """Turn a batch that does not fit in memory into a message that says which and what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not out_of_memory(error):
            raise
        longest = max(batch.lengths)
        tokens = len(batch.lengths) * longest
        advice = f"fewer tokens at once: --batch-tokens {max(longest, tokens // 2)}"
        if len(batch.lengths) == 1:  # a prompt always runs whole
            advice = "a shorter --context, fewer --sites, or --device-map auto"
        raise MachineError(
            f"out of memory on a batch of {len(batch.lengths)} prompts, {tokens} tokens with "
            f"padding, in shard {batch.shard}. Every committed shard is whole. Capture again with "
            f"{advice} (a plan of its own), or on a larger card.",
            kind=ErrorKind.NO_MEMORY,
        ) from None
