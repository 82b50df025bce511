"""Reading the moments of one site, a band of a shard at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpp.store.arrays.hidden import open_site, rows_of
from lpp.store.arrays.layout import check_array
from lpp.store.arrays.moments import (
    MOMENTS_SCHEMA,
    BandMoments,
    packed_rows,
    packed_size,
    scatter_array,
    table_problems,
)
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.keys import MOMENTS_KEY, SCATTERS_KEY
from lpp.store.format.plan import Plan, SiteSpec
from lpp.store.format.tables import read_table
from lpp.store.objects.paths import ADVICE

if TYPE_CHECKING:
    import pyarrow as pa
    import zarr

    from lpp.store.read import Run, ShardRecord


class MomentsReader:
    """Moments of one site of `run`: what is opened of a shard stays open.

    Reads a band of a shard at a time, 8 d^2 bytes; of a bucket the objects of a shard's site are
    copied to this machine first. Raises InputError for a site that the run
    does not hold and for a run without moments.
    """

    def __init__(self, run: "Run", site: str) -> None:
        self._run = run
        self._site = site_of(run, site)
        if not run.plan.keeps_moments:
            raise InputError(
                f"run {run.id} keeps rows and no moments. They come from its rows: "
                f"`lpp-analyze profile {run.path.parent.parent}`; or capture again with "
                "--keep moments or --keep both.",
                kind=ErrorKind.NOT_FOUND,
            )
        self._opened: dict[int, tuple[pa.Table, zarr.Array[Any]]] = {}

    def __iter__(self) -> Iterator[BandMoments]:
        """Every committed shard's bands, shard by shard."""
        bands = range(len(self._run.plan.prefixes))
        return (self.band(shard, band) for shard in self._run.shards for band in bands)

    def band(self, shard: "ShardRecord", band: int) -> BandMoments:
        """The moments of one band of one shard. FormatError for altered bytes."""
        table, array = self._shard(shard)
        width = self._site.width
        rows = packed_rows(width)
        row = self._run.sites.index(self._site.name) * len(self._run.plan.prefixes) + band
        values = rows_of(array, self._site.name, band * rows, (band + 1) * rows).ravel()
        return BandMoments(
            n=table["n"][row].as_py(),
            mean=np.array(table["mean"][row].values, dtype=np.float64),
            scatter=values[: packed_size(width)].astype(np.float64),
        )

    def _shard(self, shard: "ShardRecord") -> "tuple[pa.Table, zarr.Array[Any]]":
        if shard.index not in self._opened:
            self._opened[shard.index] = self._open(shard)
        return self._opened[shard.index]

    def _open(self, shard: "ShardRecord") -> "tuple[pa.Table, zarr.Array[Any]]":
        run, plan = self._run, self._run.plan
        table = read_moments_table(run.shard_file(shard, MOMENTS_KEY), plan)
        if problems := table_problems(table, plan, run.band_counts(shard)):
            raise FormatError(
                f"{shard.home / MOMENTS_KEY}: {'; '.join(problems)}. {ADVICE}",
                kind=ErrorKind.CORRUPT,
            )
        prefix = f"{SCATTERS_KEY}/{self._site.name}/"
        keys = [key for key in shard.commit.objects if key.startswith(prefix)]
        group = Path(shard.home) / SCATTERS_KEY if isinstance(shard.home, Path) else None
        for key in keys:
            file = run.shard_file(shard, key)
            # of a bucket, the copies lie below one another as the objects do
            group = group or file.parents[key.count("/")] / SCATTERS_KEY
        if group is None:
            raise FormatError(
                f"{shard.home}/{prefix}: nothing of it was committed. {ADVICE}",
                kind=ErrorKind.CORRUPT,
            )
        check_array(group, f"{shard.home}/{SCATTERS_KEY}", scatter_array(self._site, plan))
        return table, open_site(group, self._site.name)


def site_of(run: "Run", site: str) -> SiteSpec:
    """The site of that name. InputError for one that `run` does not hold."""
    for spec in run.plan.sites:
        if spec.name == site:
            return spec
    raise InputError(
        f"run {run.id} has no site {site!r}; it has {', '.join(run.sites)}.",
        kind=ErrorKind.NOT_FOUND,
    )


def read_moments_table(file: Path, plan: Plan) -> "pa.Table":
    """`moments.arrow` of a shard, (S x B, 4). FormatError(CORRUPT) for what is no such table."""
    bands = len(plan.prefixes)
    values = sum(site.width for site in plan.sites) * bands
    rows = len(plan.sites) * bands
    return read_table(file, MOMENTS_SCHEMA, rows=rows, extra=8 * values)
