"""The rows of one batch, copied from a forward pass to their destination.

On a CPU the hook copies the rows of real tokens straight into the shard's memory: the only copy. On
a GPU it selects them on the device, and a separate stream copies them into that page-locked memory
while the pass continues. Whether they are finite is also computed there: only one answer for each
site is copied to the host.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.logit_statistics import STATISTICS, TokenStatistics
from lpp.capture.models.device import device_module, kind_of
from lpp.capture.plan.backend import Batch, Outputs
from lpp.store.arrays.finite import rows_not_finite
from lpp.store.arrays.layout import Rows


class Picked:
    """The rows of a forward pass that belong to a batch, and where they go in it.

    indices: (n,) rows of the flat pass. spans: (first, last + 1) of the stretches of the batch's
    flat rows that they fill, in the order of `indices`; (0, n) if one pass runs the whole batch.
    The indices are copied to each device once.
    """

    def __init__(
        self, indices: torch.Tensor, device: torch.device, spans: Sequence[tuple[int, int]]
    ) -> None:
        self.spans = tuple(spans)
        self._host = indices
        self._on = {device: to_device(indices, device)}

    def __len__(self) -> int:
        return len(self._host)

    def on(self, device: torch.device) -> torch.Tensor:
        """The indices on `device`."""
        if device not in self._on:
            self._on[device] = to_device(self._host, device)
        return self._on[device]


class CopyStreams:
    """A stream for copies from each GPU, reused for every batch."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, Any] = {}

    def copy(self, values: torch.Tensor, targets: Sequence[torch.Tensor]) -> None:
        """Begin to copy `values` into `targets`, host tensors that together take its rows, in
        order.
        """
        device = values.device
        if not kind_of(device).copies_aside:
            share_out(values, targets)
            return
        module = device_module(device)
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = module.Stream(device)
        stream.wait_stream(module.current_stream(device))
        with module.stream(stream):
            share_out(values, targets, waits=False)
        values.record_stream(stream)  # its memory is not reused before the copy has read it

    def marks(self) -> list[Any]:
        """Events that occur when every copy begun so far has ended."""
        return [stream.record_event() for stream in self._streams.values()]

    def wait(self) -> None:
        """Wait for every copy begun so far: the memory of none may be freed before."""
        for mark in self.marks():
            mark.synchronize()


class BatchRows:
    """The rows and statistics of one batch.

    `take` is called inside forward passes, for each site once per pass; `finish` is called after
    the last pass, and `wait` before anything is read.
    """

    def __init__(self, batch: Batch, outputs: Outputs, streams: CopyStreams) -> None:
        self.batch = batch
        self._outputs, self._streams = outputs, streams
        self._targets = {
            site: as_tensor(rows, integers=site in outputs.integers)
            for site, rows in batch.hidden.items()
        }
        self._came = {site: np.zeros(len(batch.token_ids), np.bool_) for site in outputs.sites}
        self._extremes: list[tuple[str, Any]] = []
        """Each site, once per pass, with the least and the largest value of its rows: NaN if there
        is one. A single kernel finds both, where `isfinite(rows).all()` launches five."""
        self._flags: torch.Tensor | None = None
        self._marks: list[Any] = []
        self._statistics: dict[str, torch.Tensor] = {}

    def take(self, site: str, state: torch.Tensor, picked: Picked) -> None:
        """Take rows of a state, (..., d), which the pass uses further and may change.

        Rows that are taken again replace earlier ones.
        """
        flat = state.reshape(-1, state.shape[-1])
        indices = picked.on(flat.device)
        for first, end in picked.spans:
            self._came[site][first:end] = True
        targets = [self._targets[site][first:end] for first, end in picked.spans]
        if flat.is_cpu and len(targets) == 1 and targets[0].dtype == flat.dtype:
            torch.index_select(flat, 0, indices, out=targets[0])
            return
        rows = flat.index_select(0, indices).to(self._targets[site].dtype)
        if flat.is_cpu:
            share_out(rows, targets)
            return
        self._streams.copy(rows, targets)
        if len(rows) and rows.is_floating_point():
            self._extremes.append((site, torch.aminmax(rows)))

    def finish(
        self, statistics: Sequence[TokenStatistics], logit_rows: torch.Tensor | None
    ) -> None:
        """Take (S,) statistics, of one pass or of several concatenated; the last call before
        `wait`.

        logit_rows: index of each among the batch's S; None if they are in order.
        """
        order = None
        if logit_rows is not None:
            order = to_device(logit_rows, getattr(statistics[0], STATISTICS[0]).device)
        for name in STATISTICS:
            parts = [getattr(of_pass, name) for of_pass in statistics]
            values = parts[0] if len(parts) == 1 else torch.cat(parts)
            if order is not None:
                values = torch.empty_like(values).index_copy_(0, order, values)
            self._statistics[name] = self._to_host(values)
        if self._extremes:
            device = self._extremes[0][1].min.device
            ends = [end.to(device, non_blocking=True) for _, both in self._extremes for end in both]
            self._flags = self._to_host(torch.stack(ends).isfinite().view(-1, 2))
        self._marks = self._streams.marks()

    def _to_host(self, values: torch.Tensor) -> torch.Tensor:
        """The values in host memory, after `wait`. Read there, they do not wait for the pass that
        runs by then.
        """
        if values.is_cpu:
            return values
        locked = kind_of(values.device).page_lock is not None
        target = torch.empty(values.shape, dtype=values.dtype, pin_memory=locked)
        self._streams.copy(values, [target])
        return target

    def wait(self) -> None:
        """Wait until rows and statistics are at their destination.

        Raises ValueError for a site with missing rows.
        """
        total = len(self.batch.token_ids)
        if lacking := [site for site, came in self._came.items() if not came.all()]:
            raise ValueError(f"not every row of {', '.join(lacking)} came: {total} were awaited")
        for mark in self._marks:
            mark.synchronize()

    def statistics(self) -> dict[str, npt.NDArray[Any]]:
        """Column -> (S,); after `wait`."""
        return {name: values.numpy() for name, values in self._statistics.items()}

    def not_finite(self) -> Mapping[str, npt.NDArray[np.int64]] | None:
        """Site -> flat rows with NaN or infinities; None if not checked yet. After `wait`."""
        if self._flags is None:
            return None
        flags = zip(self._extremes, self._flags.tolist(), strict=True)
        suspects = {site for (site, _), finite in flags if not all(finite)}
        return {
            site: rows_not_finite(self.batch.hidden[site])
            for site in self._outputs.sites
            if site in suspects
        }


def share_out(values: torch.Tensor, targets: Sequence[torch.Tensor], *, waits: bool = True) -> None:
    """Copy the rows of `values` into `targets`, one after the other. waits: until they have
    arrived; otherwise the caller does, and the targets are page-locked.
    """
    start = 0
    for target in targets:
        target.copy_(values[start : start + len(target)], non_blocking=not waits)
        start += len(target)


def as_tensor(rows: Rows, *, integers: bool = False) -> torch.Tensor:
    """Host rows as a tensor over the same memory; uint16 holds the bits of bfloat16, unless rows
    are `integers`.
    """
    array: npt.NDArray[Any] = rows if rows.flags.writeable else rows.copy()
    tensor = torch.from_numpy(array)
    is_bits = tensor.dtype == torch.uint16 and not integers
    return tensor.view(torch.bfloat16) if is_bits else tensor


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on `device`; waits for the copy only where there is no page lock."""
    if kind_of(device).page_lock is None:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
