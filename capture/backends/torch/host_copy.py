"""How rows reach the host: as they are on a CPU, through pinned buffers from a GPU.

Both hold the rows of one batch. `copy` is called from inside the forward pass, once for each
site; `arrays` and `statistics` after it, when they wait for what is still under way.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt
import torch

from lpp.capture.backends.logit_statistics import STATISTICS, TokenStatistics
from lpp.store.arrays.layout import Rows


class HostRows(Protocol):
    """One batch's rows on their way to the host."""

    def begin(self) -> None:
        """Forget the batch before."""

    def copy(self, site: str, rows: torch.Tensor) -> None:
        """Take (T, d) rows that nobody else will change."""

    def finish(self, statistics: TokenStatistics) -> None:
        """Take (S,) statistics: the last thing a batch gives."""

    def arrays(self) -> dict[str, Rows]:
        """Site -> (T, d), complete."""

    def statistics(self) -> dict[str, npt.NDArray[Any]]:
        """Column -> (S,), complete."""

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Site -> (T, d) on its device, where rows stay there; else nothing."""


class PlainHost:
    """For models on the CPU: the rows are host memory already."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._rows: dict[str, torch.Tensor] = {}
        self._statistics: dict[str, npt.NDArray[Any]] = {}

    def begin(self) -> None:
        self._rows.clear()

    def copy(self, site: str, rows: torch.Tensor) -> None:
        self._rows[site] = rows.to(self._dtype)

    def finish(self, statistics: TokenStatistics) -> None:
        self._statistics = statistics.numpy()

    def arrays(self) -> dict[str, Rows]:
        return {site: stored_bits(rows) for site, rows in self._rows.items()}

    def statistics(self) -> dict[str, npt.NDArray[Any]]:
        return self._statistics

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {}


class PinnedHost:
    """For models on GPUs: each site is copied on a stream of its own, beside the computing.

    Pinned buffers grow to the largest batch and are kept. A model over several cards
    (`--device-map auto`) has one copy stream for each.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._pinned: dict[str, torch.Tensor] = {}
        self._rows: dict[str, torch.Tensor] = {}
        self._statistics: dict[str, torch.Tensor] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def begin(self) -> None:
        self._rows.clear()

    def copy(self, site: str, rows: torch.Tensor) -> None:
        self._rows[site] = self._send(site, rows.to(self._dtype))

    def finish(self, statistics: TokenStatistics) -> None:
        self._statistics = {
            name: self._send(f".{name}", getattr(statistics, name)) for name in STATISTICS
        }

    def arrays(self) -> dict[str, Rows]:
        self._wait()
        return {site: stored_bits(rows) for site, rows in self._rows.items()}

    def statistics(self) -> dict[str, npt.NDArray[Any]]:
        self._wait()
        return {name: values.numpy() for name, values in self._statistics.items()}

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {}

    def _send(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Begin to copy `values`; the result is theirs once `_wait` has returned."""
        buffer = self._pinned.get(name)
        if buffer is None or len(buffer) < len(values):
            buffer = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._pinned[name] = buffer
        target = buffer[: len(values)]
        device = values.device
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            target.copy_(values, non_blocking=True)
        values.record_stream(stream)  # its memory is not given away before the copy has read it
        return target

    def _wait(self) -> None:
        for stream in self._streams.values():
            stream.synchronize()


def stored_bits(rows: torch.Tensor) -> Rows:
    """Host rows as the array that is stored: bfloat16 as the uint16 of its bits, no copy."""
    bits = rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows
    array: Rows = bits.numpy()
    return array


def make_host(device: torch.device, dtype: torch.dtype) -> HostRows:
    """The kind that fits where the model runs."""
    return PlainHost(dtype) if device.type == "cpu" else PinnedHost(dtype)
