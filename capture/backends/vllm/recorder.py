"""What one of vLLM's workers does around a forward pass: find prompts, keep rows, reduce logits.

The driver says which prompts it awaits and, after the pass, which of them the engine finished in
it; only those give rows. So neither padding that looks like a prompt nor a prompt that runs twice
gives a row too many.

With tensor parallelism every rank does this. States are whole on each, so the first rank alone
keeps them; logits are put together by a collective, so every rank asks for them in the same
tiles, and the first, which has them whole, reduces them.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.logit_statistics import Unembeds, logit_statistics
from lpp.capture.backends.torch.host_copy import HostRows, make_host
from lpp.capture.backends.vllm.handover import Handover
from lpp.capture.backends.vllm.match import Found, find_prompts
from lpp.capture.backends.vllm.sites import EngineSites, stream, tapped
from lpp.store.errors import ErrorKind, InputError

SLOTS: Final = 2
"""Batches on the host: one that is filled, one whose rows go into their shard."""

Awaited = tuple[bytes, tuple[int, ...]]
"""A prompt's key, and the rows of it whose logits are reduced."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Rows of the prompts that a pass finished."""

    order: tuple[int, ...]
    """Places in the list of awaited prompts, in the order of the rows."""
    hidden: Any
    """Site -> (T, d), as a `Handover` gives it."""
    statistics: dict[str, npt.NDArray[Any]]
    """Column -> (S,) at the asked rows."""


class Recorder:
    """Hooks on a model inside vLLM.

    wanted: sites. dtype: of the stored rows. handover: None on ranks whose rows nobody reads.
    """

    def __init__(
        self,
        sites: EngineSites,
        wanted: Sequence[str],
        unembed: Unembeds,
        dtype: torch.dtype,
        handover: Handover | None,
    ) -> None:
        self._unembed, self._handover = unembed, handover
        self._hosts: list[HostRows] = [make_host(unembed.device, dtype) for _ in range(SLOTS)]
        self._slot = 0
        self._asked: dict[bytes, tuple[int, ...]] = {}
        self._waiting: dict[bytes, list[int]] = {}
        self._found: list[Found] = []
        self._rows: slice | torch.Tensor = slice(0)
        self._keep_final = handover is not None and "final" in wanted
        inner = [name for name in wanted if name != "final"] if handover is not None else []
        self._hooks = ExitStack()
        # entered first: which rows count is known before the first block runs
        before = sites.model.register_forward_pre_hook(self._before, with_kwargs=True)
        self._hooks.callback(before.remove)
        self._hooks.enter_context(tapped(sites, inner, self._state))
        after = sites.model.register_forward_hook(self._after)
        self._hooks.callback(after.remove)

    def close(self) -> None:
        """Take every hook off the model."""
        self._hooks.close()
        if self._handover is not None:
            self._handover.close()

    def expect(self, slot: int, awaited: Sequence[Awaited]) -> None:
        """Await a batch; its rows go into `slot`. Equal prompts have equal asked rows."""
        self._slot, self._found = slot, []
        self._asked = dict(awaited)
        self._waiting = {}
        for place, (key, _) in enumerate(awaited):
            self._waiting.setdefault(key, []).append(place)

    def take(self, finished: Sequence[int]) -> Taken | None:
        """Rows of the last pass that belong to prompts in `finished`; None where there are none."""
        found, self._found = self._found, []
        done, order, kept = set(finished), [], []
        for one in found:
            places = self._waiting[one.key]
            place = next((p for p in places if p in done), None)
            kept.append(place is not None)
            if place is not None:
                places.remove(place)
                order.append(place)
        if not order or self._handover is None:
            return None
        host = self._hosts[self._slot]
        hidden, statistics = host.arrays(), host.statistics()
        if not all(kept):
            rows = np.repeat(kept, [one.length for one in found])
            asked = np.repeat(kept, [len(self._asked[one.key]) for one in found])
            hidden = {site: values[rows] for site, values in hidden.items()}
            statistics = {name: values[asked] for name, values in statistics.items()}
        return Taken(tuple(order), self._handover.give(self._slot, hidden), statistics)

    def _before(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids, positions = kwargs.get("input_ids"), kwargs.get("positions")
        if ids is None or positions is None or positions.ndim != 1:
            raise InputError(
                "this model's inputs inside vLLM are not token ids at positions (it is "
                "multimodal, perhaps). Capture it with --backend torch.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )
        # The one wait for the device, before anything of this pass has been launched.
        flat = ids.to("cpu", torch.int32).numpy()
        counts = Counter({key: len(places) for key, places in self._waiting.items()})
        self._found = find_prompts(flat, positions.to("cpu", torch.int64).numpy(), counts)
        if not self._found:
            return
        device = self._unembed.device
        asked, following, rows, start = [], [], [], 0
        for one in self._found:
            offsets = np.array(self._asked[one.key], dtype=np.int64)
            after = np.append(flat[one.start + 1 : one.start + one.length], -1)
            asked.append(start + offsets)
            following.append(after[offsets])
            rows.append(np.arange(one.start, one.start + one.length))
            start += one.length
        self._asked_rows = torch.from_numpy(np.concatenate(asked)).to(device)
        self._next_ids = torch.from_numpy(np.concatenate(following).astype(np.int64)).to(device)
        flat_rows = np.concatenate(rows)
        whole = bool((flat_rows == np.arange(start)).all())  # padding, if any, lies behind
        self._rows = slice(start) if whole else torch.from_numpy(flat_rows).to(device)
        self._hosts[self._slot].begin()

    def _state(self, site: str, state: torch.Tensor) -> None:
        if self._found:
            self._hosts[self._slot].copy(site, state[self._rows])

    def _after(self, module: Any, args: Any, output: Any) -> None:
        if not self._found:
            return
        final = stream(output)[self._rows]
        if self._keep_final:
            self._hosts[self._slot].copy("final", final)
        statistics = logit_statistics(final[self._asked_rows], self._unembed, self._next_ids)
        if self._handover is not None:
            self._hosts[self._slot].finish(statistics)
