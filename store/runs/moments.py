"""Reading the moments of one site, a band of a shard at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.moments import (
    MOMENTS_SCHEMA,
    BandMoments,
    packed_rows,
    packed_size,
    scatter_array,
    table_problems,
)
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.keys import MOMENTS_KEY, SCATTERS_KEY
from lpp.store.format.limits import ADVICE
from lpp.store.format.plan import Plan, SiteSpec
from lpp.store.runs.shards import Shard


class MomentsReader:
    """Moments of `site`, of the shards of a run.

    Reads a band of a shard at a time, 8 d^2 bytes. counts: (B,) rows of a shard in each band.
    """

    def __init__(
        self,
        plan: Plan,
        site: SiteSpec,
        shards: Sequence[Shard],
        counts: Callable[[Shard], npt.NDArray[np.int64]],
    ) -> None:
        self._plan, self._site, self._shards, self._counts = plan, site, shards, counts
        self._tables: dict[int, pa.Table] = {}

    def __iter__(self) -> Iterator[BandMoments]:
        """Every committed shard's bands, shard by shard."""
        bands = range(len(self._plan.moment_ends))
        return (self.band(shard, band) for shard in self._shards for band in bands)

    def band(self, shard: Shard, band: int) -> BandMoments:
        """The moments of one band of one shard. FormatError for altered bytes."""
        table, width = self._table(shard), self._site.width
        rows = packed_rows(width)
        row = self._plan.site_names.index(self._site.name) * len(self._plan.moment_ends) + band
        spec, start, end = scatter_array(self._site, self._plan), band * rows, (band + 1) * rows
        with shard.array(SCATTERS_KEY, spec, start=start, end=end) as array:
            values = array.rows(start, end).ravel()
        return BandMoments(
            n=table["n"][row].as_py(),
            mean=np.array(table["mean"][row].values, dtype=np.float64),
            scatter=values[: packed_size(width)].astype(np.float64),
        )

    def _table(self, shard: Shard) -> pa.Table:
        if shard.index not in self._tables:
            table = moments_table_of(shard, self._plan)
            if problems := table_problems(table, self._plan, self._counts(shard)):
                raise FormatError(
                    f"{shard.objects.place / MOMENTS_KEY}: {'; '.join(problems)}. {ADVICE}",
                    kind=ErrorKind.CORRUPT,
                )
            self._tables[shard.index] = table
        return self._tables[shard.index]


def moments_table_of(shard: Shard, plan: Plan) -> pa.Table:
    """`moments.arrow` of a shard, (S x B, 4). FormatError(CORRUPT) if it is not such a table."""
    bands = len(plan.moment_ends)
    values = sum(site.width for site in plan.sites) * bands
    return shard.table(MOMENTS_KEY, MOMENTS_SCHEMA, rows=len(plan.sites) * bands, extra=8 * values)
