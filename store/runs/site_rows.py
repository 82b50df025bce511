"""The rows of a site as one array, over all shards, read and checked when it is indexed."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import chunk_rows, site_array
from lpp.store.arrays.reader import ReadAs
from lpp.store.format.keys import HIDDEN_KEY
from lpp.store.format.plan import Plan, SiteSpec
from lpp.store.runs.shards import Shard


class SiteRows:
    """Rows of all `shards`, (T, d), as NumPy, dask and xarray take an array: by `shape`, `dtype`
    and indexing, which reads the chunks with the rows that it names.
    """

    ndim = 2

    def __init__(self, plan: Plan, site: SiteSpec, shards: Sequence[Shard], dtype: ReadAs) -> None:
        self._shards, self._read_as = shards, dtype
        self._edges = np.cumsum([0, *(shard.rows for shard in shards)]).tolist()
        self._specs = [site_array(site, plan.dtype_of(site), shard.rows) for shard in shards]
        stored = site_array(site, plan.dtype_of(site), 1).decoded_dtype
        self.dtype = np.dtype("float32" if dtype == "float32" else stored)
        self.shape = (int(self._edges[-1]), site.width)
        self._chunk_rows = chunk_rows(site.width, self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        rows, *rest = index if isinstance(index, tuple) else (index,)
        rows = slice(None) if rows is Ellipsis else rows
        if isinstance(rows, slice) and (rows.step or 1) > 0:
            first, end, step = rows.indices(len(self))
            values = self._read(first, max(first, end))[::step]
        else:
            numbers = np.arange(len(self))[rows]
            wanted, place = np.unique(numbers, return_inverse=True)
            far = np.flatnonzero(np.diff(wanted) > self._chunk_rows) + 1
            parts = [part for part in np.split(wanted, far) if len(part)]
            read = [self._read(int(p[0]), int(p[-1]) + 1)[p - p[0]] for p in parts]
            values = np.concatenate([self._read(0, 0), *read])[place.reshape(numbers.shape)]
        return values[(*(slice(None),) * (values.ndim - 1), *rest)]

    def _read(self, first: int, end: int) -> npt.NDArray[Any]:
        values, edges = np.empty((end - first, self.shape[1]), self.dtype), self._edges
        for k in range(bisect_right(edges, first) - 1, bisect_left(edges, end)):
            start, stop = (max(first, edges[k]) - edges[k], min(end, edges[k + 1]) - edges[k])
            if start < stop:
                out = values[edges[k] + start - first : edges[k] + stop - first]
                spec = self._specs[k]
                with self._shards[k].array(HIDDEN_KEY, spec, start=start, end=stop) as array:
                    array.rows(start, stop, dtype=self._read_as, out=out)
        return values
