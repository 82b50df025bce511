"""Moments of a shard, accumulated while it is captured, on the device that its rows are on.

For each site and position band (`Outputs.band_ends`): count, mean and scatter in float64, merged as
in Chan, Golub and LeVeque 1983. Rows of a band are buffered until there are `WAITING`; then one
rank-k update adds them. They are centred by their own mean, and one more row carries the rank-one
term of the merge, so the product and the merge are one `addmm`. Which rows share a product depends
only on the order of the batches, which the plan fixes.

Only the upper triangle is stored, in panels of rows from the diagonal on: eight panels take 9/16 of
the memory and of the products of the square. For S sites of width d in B bands that is
S B (4.5 d^2 + WAITING d itemsize) bytes: with 13 bands 1.1 GB at d = 576 and 31 sites, 36 GB at
d = 4,096 and 33 sites. The d x d addition is done once for so many rows that it stays small beside
their product.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.batch_rows import to_device
from lpp.capture.models.machine import out_of_memory
from lpp.capture.plan.backend import Batch, Outputs
from lpp.store.arrays.moments import SiteMoments
from lpp.store.errors import ErrorKind, MachineError

WAITING: Final = 1024
"""Rows that make one product efficient."""

PANELS: Final = 8
"""Blocks in which a triangle is stored."""

_TORCH: Final = {"float64": torch.float64, "float32": torch.float32}


class ShardMoments(Mapping[str, SiteMoments]):
    """Moments of the shard that is being captured: site -> its bands.

    widths: columns of each site of `outputs`. A site is packed and copied to the host each time it
    is requested, until a row of the next shard arrives.
    """

    def __init__(self, outputs: Outputs, widths: Mapping[str, int]) -> None:
        self._outputs, self._widths = outputs, widths
        self._sites: dict[str, _Site] = {}
        self._upper = np.array(outputs.band_ends)

    def begin(self) -> None:
        """Forget every row; keep the memory."""
        for site in self._sites.values():
            site.clear()

    def add(
        self, batch: Batch, rows: Mapping[str, torch.Tensor], excluded: Collection[int]
    ) -> None:
        """Add a batch. rows: site -> (T, d). excluded: ids of prompts whose rows do not count."""
        bands = self._bands(batch, excluded)
        if not (bands >= 0).any():
            return  # if nothing could run, there are no rows
        rows_by_band = [np.flatnonzero(bands == band) for band in range(len(self._upper))]
        indices = _Indices(rows_by_band)
        try:
            for site in self._outputs.sites:
                if site not in self._sites:
                    self._sites[site] = _Site(rows[site], len(self._upper))
                self._sites[site].add(rows[site], indices.on(rows[site].device))
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            raise MachineError(
                f"out of memory for moments of {len(self._widths)} sites of width "
                f"{max(self._widths.values())} in {len(self._upper)} bands. Capture with fewer "
                "--sites, or with --keep rows.",
                kind=ErrorKind.NO_MEMORY,
            ) from None

    def _bands(self, batch: Batch, excluded: Collection[int]) -> npt.NDArray[np.int64]:
        """(T,) the band of each flat row; -1 for `excluded` prompts and for branches."""
        position = np.concatenate([np.arange(length) for length in batch.lengths])
        bands = np.searchsorted(self._upper, position, side="right")
        bands[np.repeat(np.isin(batch.prompt_ids, [*excluded, *batch.before]), batch.lengths)] = -1
        return bands

    def __getitem__(self, site: str) -> SiteMoments:
        if site not in self._outputs.sites:
            raise KeyError(site)
        if site not in self._sites:  # no row has come: a shard of failed prompts
            self._sites[site] = _Site(torch.empty((0, self._widths[site])), len(self._upper))
        return self._sites[site].packed(self._outputs.moments_dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs.sites)

    def __len__(self) -> int:
        return len(self._outputs.sites)


class _Indices:
    """Rows of each band of one batch; each device gets them once."""

    def __init__(self, bands: list[npt.NDArray[np.intp]]) -> None:
        self._bands = bands
        self._on: dict[torch.device, list[torch.Tensor]] = {}

    def on(self, device: torch.device) -> list[torch.Tensor]:
        if device not in self._on:
            self._on[device] = [to_device(torch.from_numpy(rows), device) for rows in self._bands]
        return self._on[device]


class _Site:
    """One site: a `_Band` for each band, and the memory for their products."""

    def __init__(self, rows: torch.Tensor, bands: int) -> None:
        width, device = rows.shape[1], rows.device
        room = torch.empty((WAITING + 1, width), dtype=torch.float64, device=device)
        self._bands = [_Band(rows, room) for _ in range(bands)]

    def clear(self) -> None:
        for band in self._bands:
            band.clear()

    @torch.inference_mode()
    def add(self, rows: torch.Tensor, bands: list[torch.Tensor]) -> None:
        """Add rows (T, d); bands: which of them belong to each band."""
        for band, which in zip(self._bands, bands, strict=True):
            band.add(rows, which)

    @torch.inference_mode()
    def packed(self, dtype: str) -> SiteMoments:
        """Moments of all rows so far, on the host."""
        for band in self._bands:
            band.multiply()
        triangles = [band.triangle().to(_TORCH[dtype]).cpu() for band in self._bands]
        return SiteMoments(
            n=np.array([band.n for band in self._bands], dtype=np.int64),
            mean=torch.stack([band.mean.cpu() for band in self._bands]).numpy(),
            scatter=torch.stack(triangles).numpy(),
        )


class _Band:
    """Rows of one site in one band: a buffer of recent rows, and the moments of earlier ones."""

    def __init__(self, like: torch.Tensor, room: torch.Tensor) -> None:
        width, device = like.shape[1], like.device
        self._rows = torch.empty((WAITING, width), dtype=like.dtype, device=device)
        self._room = room
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        edges = sorted({width * k // PANELS for k in range(PANELS)})
        ends = [*edges[1:], width]
        self._panels = [
            (start, end, torch.zeros((end - start, width - start), dtype=torch.float64).to(device))
            for start, end in zip(edges, ends, strict=True)
        ]
        self._filled = self._taken = 0

    @property
    def n(self) -> int:
        """Number of rows so far."""
        return self._taken + self._filled

    def clear(self) -> None:
        self._filled = self._taken = 0
        self.mean.zero_()
        for _, _, panel in self._panels:
            panel.zero_()

    def add(self, rows: torch.Tensor, which: torch.Tensor) -> None:
        """Add `rows[which]`."""
        while len(which):
            fitting = which[: WAITING - self._filled]
            self._rows[self._filled : self._filled + len(fitting)] = rows.index_select(0, fitting)
            self._filled += len(fitting)
            which = which[len(fitting) :]
            if self._filled == WAITING:
                self.multiply()

    def multiply(self) -> None:
        """Add the buffered rows to the moments."""
        count = self._filled
        if not count:
            return
        centred = self._room[:count]
        # Subtract the first row before anything is summed: equal rows then give exactly zero, and
        # columns with an enormous mean keep their digits.
        first = self._rows[0].to(torch.float64)
        torch.sub(self._rows[:count].to(torch.float64), first, out=centred)
        mean = centred.mean(dim=0)
        centred -= mean
        mean += first
        total = self._taken + count
        if self._taken:
            delta = mean - self.mean
            centred = self._room[: count + 1]
            torch.mul(delta, (self._taken * count / total) ** 0.5, out=centred[count])
            self.mean += delta * (count / total)
        else:
            self.mean.copy_(mean)
        for start, end, panel in self._panels:
            panel.addmm_(centred[:, start:end].T, centred[:, start:])
        self._taken, self._filled = total, 0

    def triangle(self) -> torch.Tensor:
        """(d (d + 1) / 2,) the upper triangle, row after row."""
        return torch.cat([panel[torch.ones_like(panel).triu() > 0] for _, _, panel in self._panels])
