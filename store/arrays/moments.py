"""Moments of a shard's activations, SPEC.md section 5: count, mean and scatter of every band.

Band b of a run holds the rows at positions `moment_ends[b - 1] <= position < moment_ends[b]`, so a
prefix is the merge of the bands below it. A table has count and mean, in a row for each site and
band. An array for each site has the scatter matrix, sum (x - mean)(x - mean)^T: its upper triangle,
row after row, cut into rows of the site's width.

Float32 scatters are float64 ones rounded once, each entry with a relative error of at most 2^-24.
So the matrix of a cell, a sum over k shards and bands, is off by at most 2^-24 sqrt(k) of its
Frobenius norm, and its trace by 2^-24 of itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.layout import SCATTER_DIMENSIONS, ArraySpec
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import MomentsDtype, Plan, SiteSpec

MOMENTS_SCHEMA: Final = pa.schema(
    [
        pa.field("site", pa.string(), nullable=False),
        pa.field("band", pa.int32(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("mean", pa.list_(pa.float64()), nullable=False),
    ]
)
"""A row per site, in depth order, and band, ascending. `mean` has the site's width."""

ITEM_BYTES: Final[Mapping[MomentsDtype, int]] = {"float64": 8, "float32": 4}
"""Bytes of an entry of a scatter matrix."""

ROUNDING: Final[Mapping[MomentsDtype, float]] = {"float64": 0.0, "float32": 2.0**-24}
"""Largest relative difference of a stored entry from the accumulated float64 one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMoments:
    """Moments of one site of one shard. All are 0 for a band without rows."""

    n: npt.NDArray[np.int64]
    """(B,) rows of each band, without prompts that are set aside."""
    mean: npt.NDArray[np.float64]
    """(B, d)"""
    scatter: npt.NDArray[Any]
    """(B, d (d + 1) / 2) upper triangles, row after row, in the plan's `moments_dtype`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandMoments:
    """Moments of one site of one shard at the positions of one band."""

    n: int
    mean: npt.NDArray[np.float64]
    """(d,)"""
    scatter: npt.NDArray[np.float64]
    """(d (d + 1) / 2,) the upper triangle, row after row."""


def packed_size(width: int) -> int:
    """Entries of the upper triangle of a scatter matrix, its diagonal included."""
    return width * (width + 1) // 2


def packed_rows(width: int) -> int:
    """Rows of the array for one triangle; the last is half empty if d is even.

    >>> packed_rows(4), packed_rows(5)
    (3, 3)
    """
    return -(-packed_size(width) // width)


def moments_bytes(widths: Sequence[int], bands: int, dtype: MomentsDtype) -> int:
    """Bytes of the moments of one shard, over all sites, uncompressed: compression saves little.

    >>> moments_bytes([576], 10, "float64")
    13363200
    """
    entries = sum(packed_rows(width) * width * ITEM_BYTES[dtype] + 8 * width for width in widths)
    return bands * entries


def band_counts(lengths: npt.NDArray[np.integer], ends: Sequence[int]) -> npt.NDArray[np.int64]:
    """(B,) rows of a shard in each band.

    lengths: (P,) tokens of each of its prompts; 0 for those that are set aside. ends: (B,), of the
    bands.

    >>> band_counts(np.array([5, 2]), (3, 6))
    array([5, 2])
    """
    edges = np.array([0, *ends])
    below = np.minimum(lengths[:, None], edges).sum(axis=0)
    counts: npt.NDArray[np.int64] = np.diff(below).astype(np.int64)
    return counts


def scatter_array(site: SiteSpec, plan: Plan) -> ArraySpec:
    """The array of `site` in `moments.zarr`, of any shard."""
    return ArraySpec(
        name=site.name,
        rows=len(plan.moment_ends) * packed_rows(site.width),
        width=site.width,
        data_type=plan.moments_dtype,
        lpp={
            "site": site.name,
            "moments": "upper triangle of the scatter matrix of each band",
            "bands": len(plan.moment_ends),
        },
        dimension_names=SCATTER_DIMENSIONS,
    )


def scatter_rows(site: SiteSpec, plan: Plan, moments: SiteMoments) -> npt.NDArray[Any]:
    """The scatter matrices of one site as rows of `scatter_array`.

    Raises InputError if they exceed float32.
    """
    if not np.isfinite(moments.scatter).all():
        raise InputError(
            f"{site.name}: a scatter matrix is beyond {plan.moments_dtype}. Capture with "
            "--moments-dtype float64.",
            kind=ErrorKind.INVALID_VALUE,
        )
    bands, size = moments.scatter.shape
    rows = np.zeros((bands, packed_rows(site.width) * site.width), plan.moments_dtype)
    rows[:, :size] = moments.scatter
    return rows.reshape(-1, site.width)


def scatter_problem(values: npt.NDArray[Any], width: int, n: int) -> str:
    """Why `values`, (R d,), cannot be a packed scatter matrix of `n` rows; "" if they can."""
    if not np.isfinite(values).all():
        return "a value that is not finite"
    diagonal = np.cumsum([0, *range(width, 1, -1)])
    if values[packed_size(width) :].any() or (values[diagonal] < 0).any():
        return "not the triangle of a scatter matrix"
    return f"scatter of {n} rows" if n < 2 and values.any() else ""


def moments_table(plan: Plan, moments: Mapping[str, SiteMoments]) -> pa.Table:
    """(S x B, 4), `MOMENTS_SCHEMA`."""
    bands = len(plan.moment_ends)
    sites = plan.site_names
    columns = [
        np.repeat(np.array(sites, dtype=object), bands),
        np.tile(np.arange(bands), len(sites)),
        np.concatenate([moments[site].n for site in sites]),
        [mean for site in sites for mean in moments[site].mean],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, MOMENTS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=MOMENTS_SCHEMA)


def check_moments(
    site: SiteSpec, plan: Plan, moments: SiteMoments, counts: npt.NDArray[np.int64]
) -> None:
    """ValueError unless `moments` have `counts` rows, (B,), and the plan's bands and dtype."""
    bands = len(plan.moment_ends)
    expected = ((bands, site.width), (bands, packed_size(site.width)), plan.moments_dtype)
    actual = (moments.mean.shape, moments.scatter.shape, moments.scatter.dtype.name)
    if actual != expected or moments.mean.dtype != np.float64:
        raise ValueError(f"{site.name}: moments are {actual}, should be {expected}")
    if not np.array_equal(moments.n, counts):
        raise ValueError(f"{site.name}: moments of {moments.n} rows, prompts have {counts}")


def table_problems(table: pa.Table, plan: Plan, counts: npt.NDArray[np.int64]) -> list[str]:
    """Every reason `table` does not fit the plan's sites and bands, and `counts` rows, (B,)."""
    bands = len(plan.moment_ends)
    sites = [site for site in plan.site_names for _ in range(bands)]
    if table["site"].to_pylist() != sites:
        return ["sites should be those of the plan, once for each band, in order"]
    problems = []
    if table["band"].to_pylist() != [*range(bands)] * len(plan.sites):
        problems.append(f"bands should count from 0 to {bands - 1} at each site")
    if table["n"].to_pylist() != counts.tolist() * len(plan.sites):
        problems.append(f"n should be {counts.tolist()} at each site, as the prompts have")
    means = table["mean"].combine_chunks()
    widths = [site.width for site in plan.sites for _ in range(bands)]
    if means.value_lengths().to_pylist() != widths:
        problems.append("each mean should have the width of its site")
    values = means.flatten()
    if values.null_count or not np.isfinite(values.to_numpy()).all():
        problems.append("means should be finite")
    return problems
