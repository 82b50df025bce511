"""Other programs read what is written: one for node, zarr-python, zarrs, xarray, dask."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray
import zarr
from node_packages import node_modules
from on_disk import on_disk
from small_capture import make_capture
from zarr_arrays import array_in, rows_of

from lpp.store import Run, open_store
from lpp.store.arrays.float8 import decode_rows
from tests.store.make_golden import golden_v5_fp8, write_alike

pytestmark = pytest.mark.slow  # programs of others

GOLDEN = Path(__file__).with_name("golden") / "v3"
FOREIGN = Path(__file__).with_name("foreign")


@pytest.fixture(scope="session")
def node_reader() -> Path:
    """`foreign/read.mjs` beside the packages that it imports."""
    return Path(shutil.copy(FOREIGN / "read.mjs", node_modules(FOREIGN).parent))


def node_reads(reader: Path, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", str(reader), str(store)], capture_output=True, text=True, check=False
    )


def test_the_reader_is_as_short_as_the_specification_promises() -> None:
    assert len((FOREIGN / "read.mjs").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("version", ["v3", "planes"])
def test_node_reads_every_value(node_reader: Path, version: str) -> None:
    golden = GOLDEN.with_name(version)
    done = node_reads(node_reader, golden)
    assert done.returncode == 0, done.stderr
    found, runs = json.loads(done.stdout), open_store(golden).runs
    assert list(found) == list(runs)
    for name, run in runs.items():
        theirs = found[name]
        shards = [theirs["shards"][str(k)] for k in range(run.plan.n_shards)]
        assert theirs["hash"] == run.plan.hash
        assert theirs["prompts"] == run.prompts().to_pydict()
        assert joined(shard["tokens"] for shard in shards) == run.tokens().to_table().to_pydict()
        for site in run.sites:
            bits = b"".join(bytes.fromhex(shard["hidden"][site]) for shard in shards)
            assert bits == rows_of(run.array(site, dtype="stored")).tobytes()
        tables = [shard["quarantine"] for shard in shards if shard["quarantine"]]
        aside = joined(iter(tables)) if tables else {"prompt_id": []}
        assert aside["prompt_id"] == run.quarantined.tolist()


def test_node_reads_rows_of_8_bits(node_reader: Path, tmp_path: Path) -> None:
    write_alike(tmp_path / "v5", golden_v5_fp8)
    done = node_reads(node_reader, tmp_path / "v5")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ((name, run),) = open_store(tmp_path / "v5").runs.items()
    hidden = found[name]["shards"]["0"]["hidden"]
    codes = np.frombuffer(bytes.fromhex(hidden["block.1"]), np.uint8).reshape(5, 5)
    values = np.empty((5, 4), np.float32)
    decode_rows(codes, values)
    assert values.tobytes() == rows_of(run.array("block.1")).tobytes()
    assert bytes.fromhex(hidden["final"]) == rows_of(run.array("final")).tobytes()


def joined(tables: Iterator[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """The rows of several tables, end to end, by column."""
    first, *others = tables
    return {name: sum((t[name] for t in others), values) for name, values in first.items()}


@pytest.mark.parametrize(
    "name",
    [
        "*/plan.json",
        "*/prompts.arrow",
        "COMMIT.json",
        "shards/00000/COMMIT.json",
        "shards/00001/*/quarantine.arrow",
        "shards/00000/*/tokens.arrow",
        "shards/00000/*/hidden.zarr/embed/zarr.json",
        "shards/00000/*/hidden.zarr/embed/c/0/0",
    ],
)
def test_node_refuses_altered_bytes(node_reader: Path, tmp_path: Path, name: str) -> None:
    store = shutil.copytree(GOLDEN, tmp_path / "store")
    (path,) = store.glob(f"runs/model-1b-untrained-*/{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = node_reads(node_reader, store)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


def test_node_refuses_a_link(node_reader: Path, tmp_path: Path) -> None:
    store = shutil.copytree(GOLDEN, tmp_path / "store")
    (path,) = store.glob("runs/model-1b-untrained-*/*/prompts.arrow")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    done = node_reads(node_reader, store)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


# zarr-python, zarrs, xarray and dask


@pytest.fixture(params=["bfloat16", "float16", "float32", "planes-bfloat16", "planes-float32"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """A run whose arrays have several chunks each; random bits in three shards, by dtype, or the
    golden chunks that are packed by planes.
    """
    if request.param.startswith("planes"):
        golden = open_store(GOLDEN.with_name("planes")).runs
        (found,) = (run for name, run in golden.items() if name.startswith(request.param))
        return found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpp.store.arrays.layout.CHUNK_BYTES", 16)
        written: Run = make_capture(stored_dtype=request.param).write(tmp_path / "store")
    return written


def groups(run: Run) -> list[Path]:
    """The Zarr group of each shard."""
    return [on_disk(shard.objects_dir) / "hidden.zarr" for shard in run.shards]


def arrays_of(run: Run, site: str) -> list["zarr.Array[Any]"]:
    """The Zarr array of each shard."""
    return [array_in(zarr.open_group(group, mode="r"), site) for group in groups(run)]


def bytes_of(arrays: list["zarr.Array[Any]"]) -> bytes:
    """Every row of `arrays`."""
    return b"".join(rows_of(array).tobytes() for array in arrays)


def stored_bytes(run: Run, site: str) -> bytes:
    """Every row of `site` as our reader gives it."""
    return b"".join(block.values.tobytes() for block in run.blocks(site, dtype="stored"))


def test_zarr_python_reads_a_shard(run: Run) -> None:
    for site in run.sites:
        arrays = arrays_of(run, site)
        for array in arrays:
            assert array.shards
            assert array.shards[0] > array.chunks[0]  # several chunks
        assert bytes_of(arrays) == stored_bytes(run, site)


def test_the_zarrs_pipeline_reads_a_shard(run: Run) -> None:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        for site in run.sites:
            arrays = arrays_of(run, site)
            assert type(arrays[0]._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
            assert bytes_of(arrays) == stored_bytes(run, site)


def test_xarray_opens_a_shard(run: Run) -> None:
    opened = [
        xarray.open_zarr(group, consolidated=False, mask_and_scale=False) for group in groups(run)
    ]
    whole = xarray.concat(opened, "token")
    assert set(whole.data_vars) == set(run.sites)
    for site in run.sites:
        assert whole[site].dims == ("token", "feature")
        assert whole[site].attrs["lpp"]["site"] == site
        assert whole[site].to_numpy().tobytes() == stored_bytes(run, site)


def test_dask_and_xarray_read_a_whole_run(run: Run) -> None:
    for site in run.sites:
        view = run.array(site, dtype="stored")
        lazy = dask.array.from_array(view, chunks=(2, view.shape[1]))
        assert lazy.numblocks[0] > 2
        assert lazy.compute(scheduler="threads").tobytes() == stored_bytes(run, site)
        named = xarray.DataArray(lazy, dims=("token", "feature"))
        last = named.isel(token=-1).to_numpy()
        assert last.tobytes() == np.asarray(view[-1]).tobytes()
        assert named.sizes == {"token": view.shape[0], "feature": view.shape[1]}


def test_float32_rows_of_a_run_are_those_of_its_blocks(run: Run) -> None:
    rows = np.concatenate(list(run.hidden("final")))
    lazy = dask.array.from_array(run.array("final"))
    np.testing.assert_array_equal(lazy.compute(), rows)
