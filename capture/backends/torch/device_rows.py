"""Rows that stay on the device where they were computed, for moments that are accumulated there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.logit_statistics import TokenStatistics
from lpp.capture.backends.torch.host_copy import HostRows, make_host
from lpp.store.arrays.layout import Rows
from lpp.store.format.plan import Keep


class DeviceRows:
    """Holds one batch's rows as tensors, in the stored dtype. Implements `HostRows`.

    A batch owns its rows: no later one writes over them, and they go with their last reader. host:
    takes the statistics, and with `copies` the rows as well.
    """

    def __init__(self, dtype: torch.dtype, host: HostRows, *, copies: bool) -> None:
        self._dtype, self._host, self._copies = dtype, host, copies
        self._rows: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        self._rows = {}
        self._host.begin()

    def copy(self, site: str, rows: torch.Tensor) -> None:
        self._rows[site] = rows.to(self._dtype)
        if self._copies:
            self._host.copy(site, self._rows[site])

    def finish(self, statistics: TokenStatistics) -> None:
        self._host.finish(statistics)

    def arrays(self) -> dict[str, Rows]:
        return self._host.arrays()

    def statistics(self) -> dict[str, npt.NDArray[Any]]:
        return self._host.statistics()

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self._rows


def rows_holder(device: torch.device, dtype: torch.dtype, keep: Keep) -> HostRows:
    """What takes the rows of a plan that keeps `keep`."""
    host = make_host(device, dtype)
    return host if keep == "rows" else DeviceRows(dtype, host, copies=keep == "both")


@torch.inference_mode()
def broken_rows(
    rows: Mapping[str, torch.Tensor], sites: Sequence[str]
) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each site with rows that are not finite, and those rows, ascending; sites in depth order.

    One answer for all sites travels to the host, where all are finite.
    """
    flags = [torch.isfinite(rows[site]).all() for site in sites]
    finite = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    for site, fine in zip(sites, finite, strict=True):
        if not fine:
            broken = ~torch.isfinite(rows[site]).all(dim=1)
            yield site, torch.nonzero(broken).ravel().cpu().numpy()
