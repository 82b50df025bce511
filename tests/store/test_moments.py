"""Moments as they lie on disk: the golden store of version 2, and stores that lie."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from on_disk import on_disk
from sealed import reseal

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.metadata import parse_layout
from lpp.store.arrays.moments import (
    MOMENTS_SCHEMA,
    SiteMoments,
    moments_bytes,
    packed_rows,
    packed_size,
    scatter_array,
    scatter_problem,
    scatter_rows,
)
from lpp.store.arrays.reader import BytesSource, read_rows
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.tables import encode_table, read_table

GOLDEN = Path(__file__).with_name("golden") / "v2"
RUN = "model-1b-untrained-f1767c43"
SHARD = "shards/00000"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A copy of the golden run to alter."""
    shutil.copytree(GOLDEN, tmp_path / "store")
    return open_store(tmp_path / "store").runs[RUN]


def test_golden_plan() -> None:
    run = open_store(GOLDEN).runs[RUN]
    assert run.verify() == []
    assert run.plan.hash.startswith("f1767c43")
    assert (run.plan.keep, run.plan.moments_dtype) == ("both", "float32")
    assert (run.plan.keeps_rows, run.plan.keeps_moments) == (True, True)
    assert [run.commit.format, *(shard.record.format for shard in run.shards)] == [2, 2, 2]
    assert json.loads((GOLDEN / "lpp.json").read_bytes())["version"] == 1


def test_golden_bands_end_at_the_prefixes() -> None:
    """Plans had no `band_ends` then."""
    (run,) = (run for run in open_store(GOLDEN).runs.values() if run.plan.keeps_moments)
    assert run.plan.moment_ends == run.plan.prefixes == (2, 3)


@pytest.mark.parametrize(("site", "scale"), [("embed", 1.0), ("block.1", 10.0), ("final", 100.0)])
def test_golden_moments(site: str, scale: float) -> None:
    run = open_store(GOLDEN).runs[RUN]
    first, second, *aside = run.moments(site)
    assert (first.n, second.n) == (2, 1)
    assert (first.mean / scale).tolist() == [1.5, -1.5]
    assert (second.mean / scale).tolist() == [3.0, -3.0]
    assert (first.scatter / scale**2).tolist() == [0.5, -0.5, 0.5]
    assert second.scatter.tolist() == [0, 0, 0]
    assert [band.n for band in aside] == [0, 0]
    assert not any(band.mean.any() or band.scatter.any() for band in aside)
    assert first.scatter.dtype == np.float64


def test_golden_quarantine() -> None:
    run = open_store(GOLDEN).runs[RUN]
    assert run.quarantine.to_pylist() == [
        {"prompt_id": 1, "reason": "not_finite", "site": "final", "position": 1, "detail": "told"}
    ]
    (block,) = run.blocks("final")
    assert block.values.tolist() == [[100, -100], [200, -200], [300, -300]]
    assert run.tokens().to_table()["entropy"].to_pylist() == [1.25, 2.25, 3.25, None, None]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 47, 48])
def test_a_triangle_fits_its_rows(width: int) -> None:
    room = packed_rows(width) * width
    assert packed_size(width) <= room < packed_size(width) + width
    assert moments_bytes([width], 3, "float32") == 3 * (4 * room + 8 * width)


@pytest.mark.parametrize("width", [1, 2, 700, 701])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_band_is_read_alone(width: int, dtype: Any) -> None:
    plan = replace(open_store(GOLDEN).runs[RUN].plan, moments_dtype=dtype)
    site = replace(plan.sites[2], width=width)
    rng = np.random.default_rng(width)
    scatter = rng.normal(size=(len(plan.prefixes), packed_size(width))).astype(dtype)
    scatter[:, np.cumsum([0, *range(width, 1, -1)])] = 1.0
    size = len(plan.prefixes)
    moments = SiteMoments(n=np.full(size, 9), mean=np.zeros((size, width)), scatter=scatter)
    spec = scatter_array(site, plan)
    encoded = encode_array(spec, scatter_rows(site, plan, moments))
    layout = parse_layout(encoded.metadata, spec, "x")
    sources = [BytesSource(b"".join(encoded.parts))]
    for chunks in (None, encoded.chunks):
        for band in range(size):
            start, end = band * packed_rows(width), (band + 1) * packed_rows(width)
            values = read_rows(sources, layout, start, end, where="x", chunks=chunks).ravel()
            assert values.dtype == dtype
            assert np.array_equal(values[: packed_size(width)], scatter[band])
            assert not values[packed_size(width) :].any()
            assert scatter_problem(values, width, 9) == ""
            assert scatter_problem(values, width, 1) == "scatter of 1 rows"


def table_of(run: Run) -> pa.Table:
    return read_table(on_disk(run.path) / SHARD / "moments.arrow", MOMENTS_SCHEMA)


def with_column(name: str, values: list[Any]) -> Callable[[Run], None]:
    """Write `moments.arrow` with another column, under a record that fits it."""

    def change(run: Run) -> None:
        table = table_of(run)
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
        path = on_disk(run.path) / SHARD / "moments.arrow"
        path.write_bytes(encode_table(table.cast(MOMENTS_SCHEMA)))

    return change


def with_scatter(values: npt.NDArray[np.float32]) -> Callable[[Run], None]:
    """Write the array of `final` with these (bands x 2, 2) values."""

    def change(run: Run) -> None:
        spec = scatter_array(run.plan.sites[2], run.plan)
        encoded = encode_array(replace(spec, rows=len(values)), values)
        folder = on_disk(run.path) / SHARD / "moments.zarr" / "final"
        (folder / "zarr.json").write_bytes(encoded.metadata)
        (folder / "c/0/0").write_bytes(b"".join(encoded.parts))

    return change


def remove(run: Run) -> None:
    shutil.rmtree(on_disk(run.path) / SHARD / "moments.zarr" / "final")


RIGHT = np.array([[5000, -5000], [5000, 0], [0, 0], [0, 0]], np.float32)


def changed(row: int, column: int, value: float) -> npt.NDArray[np.float32]:
    found = RIGHT.copy()
    found[row, column] = value
    return found


LIES: dict[str, tuple[Callable[[Run], None], str, bool]] = {
    "counts": (with_column("n", [2, 2] * 3), "n should be .2, 1. at each site", True),
    "sites": (
        with_column("site", ["final"] * 2 + ["embed"] * 2 + ["block.1"] * 2),
        "sites should be those of the plan",
        True,
    ),
    "bands": (with_column("band", [1, 0] * 3), "bands should count from 0 to 1", True),
    "widths": (with_column("mean", [[1.0]] * 6), "each mean should have the width", True),
    "means": (with_column("mean", [[1.0, np.nan]] * 6), "means should be finite", True),
    "no array": (remove, "missing since it was committed", True),
    "shape": (with_scatter(np.zeros((6, 2), np.float32)), "shape .6, 2., should be .4, 2", True),
    "infinite": (with_scatter(changed(0, 1, np.inf)), "band 0: a value that is not fin", False),
    "negative": (with_scatter(changed(1, 0, -1.0)), "band 0: not the triangle", False),
    "padding": (with_scatter(changed(1, 1, 1.0)), "band 0: not the triangle", False),
    "one row": (with_scatter(changed(2, 0, 1.0)), "band 1: scatter of 1 rows", False),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_does_not_fit_is_found(run: Run, lie: str) -> None:
    """Checksums fit, as those of a hostile writer would."""
    change, match, refused = LIES[lie]
    change(run)
    reseal(run.path / SHARD)
    again = open_store(run.path.parent.parent).runs[RUN]
    (problem, *_) = again.verify()
    assert problem.where.startswith(f"{SHARD}/moments.")
    assert re.search(match, problem.what), problem.what
    if refused:
        with pytest.raises(FormatError, match=match) as caught:
            list(again.moments("final"))
        assert caught.value.kind is ErrorKind.CORRUPT


def test_what_is_right_stays_right(run: Run) -> None:
    """The lies above are the only reason that they are found."""
    with_scatter(RIGHT)(run)
    reseal(run.path / SHARD)
    assert open_store(run.path.parent.parent).runs[RUN].verify() == []


def site_moments(**changes: Any) -> SiteMoments:
    known = SiteMoments(
        n=np.array([2, 1]), mean=np.zeros((2, 2)), scatter=np.zeros((2, 3), np.float32)
    )
    return replace(known, **changes)


@pytest.mark.parametrize(
    ("moments", "match"),
    [
        (site_moments(n=np.array([3, 0])), r"moments of \[3 0\] rows"),
        (site_moments(mean=np.zeros((2, 3))), "moments are"),
        (site_moments(mean=np.zeros((2, 2), np.float32)), "moments are"),
        (site_moments(scatter=np.zeros((2, 4), np.float32)), "moments are"),
        (site_moments(scatter=np.zeros((2, 3))), "moments are"),
    ],
)
def test_moments_that_do_not_fit_are_a_bug_of_the_caller(
    tmp_path: Path, moments: SiteMoments, match: str
) -> None:
    golden = open_store(GOLDEN).runs[RUN]
    writer = RunWriter(create_store(tmp_path / "s").path, golden.plan, golden.prompts())
    rows = np.ones((3, 2), np.uint16)
    tokens = golden.tokens().to_table().slice(0, 3)
    hidden = dict.fromkeys(golden.sites, rows)
    with pytest.raises(ValueError, match=match):
        writer.write_shard(0, hidden, tokens, moments=dict.fromkeys(golden.sites, moments))
    with pytest.raises(ValueError, match="the plan keeps both"):
        writer.write_shard(0, hidden, tokens)
    assert not writer.committed(0)


def test_a_matrix_beyond_float32_is_refused(tmp_path: Path) -> None:
    golden = open_store(GOLDEN).runs[RUN]
    writer = RunWriter(create_store(tmp_path / "s").path, golden.plan, golden.prompts())
    huge = site_moments(scatter=np.full((2, 3), np.inf, np.float32))
    hidden = dict.fromkeys(golden.sites, np.ones((3, 2), np.uint16))
    with pytest.raises(InputError, match="--moments-dtype float64"):
        writer.write_shard(
            0,
            hidden,
            golden.tokens().to_table().slice(0, 3),
            moments=dict.fromkeys(golden.sites, huge),
        )
