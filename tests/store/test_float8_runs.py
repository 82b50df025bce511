"""Runs with rows of 8 bits: written, read in every way, verified, repaired, beside exact sites."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_disk import on_disk
from small_capture import Capture, make_capture
from stored import object_path, stored_objects
from stored_arrays import widened
from zarr_arrays import rows_of

from lpp.analyze.logits.proof import check_logits, logits_problems
from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.arrays.float8 import decode_rows, encode_rows
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.plan import parse_plan
from lpp.store.objects.locate import objects_at
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import HeadContent
from lpp.store.shared.matrices import Matrix
from tests.store.make_golden import FLOAT8_ROWS, golden_v5_fp8, write_alike


def rounded(capture: Capture, *sites: str) -> Capture:
    """The capture with `sites` in float8_e4m3."""
    specs = [
        replace(site, dtype="float8_e4m3" if site.name in sites else None)
        for site in capture.plan.sites
    ]
    return replace(capture, plan=replace(capture.plan, sites=tuple(specs)))


def decoded(rows: Any) -> np.ndarray:
    """Rows after they were rounded, as float32."""
    out = np.empty(rows.shape, np.float32)
    decode_rows(encode_rows(rows), out)
    return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_way_of_reading_gives_the_rounded_rows(tmp_path: Path, dtype: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpp.store.arrays.layout.CHUNK_BYTES", 16)  # several chunks of a shard
        capture = rounded(make_capture(stored_dtype=dtype), "embed", "block.1")
        run = capture.write(tmp_path)
    assert run.verify() == []
    assert (run.commit.format, run.shards[0].record.format) == (5, 3)
    for site in ("embed", "block.1"):
        expected = decoded(capture.hidden[site])
        wide, bits = (
            np.concatenate([block.values for block in run.blocks(site, dtype=read_as)])
            for read_as in ("float32", "stored")
        )
        assert np.array_equal(wide, expected, equal_nan=True)
        assert bits.dtype == np.uint16
        assert np.array_equal(widened(bits), expected, equal_nan=True)
        part = np.concatenate([block.values for block in run.blocks(site, first=1, prompts=3)])
        assert np.array_equal(part, expected[5:15], equal_nan=True)
        for view, whole in (
            (run.array(site), wide),
            (run.array(site, dtype="stored"), bits),
        ):
            assert rows_of(view).tobytes() == whole.tobytes()
    exact = [block.values for block in run.blocks("final", dtype="stored")]
    assert np.concatenate(exact).tobytes() == capture.hidden["final"].tobytes()


def test_a_plan_says_how_rows_of_each_site_lie() -> None:
    plan = rounded(make_capture(), "embed", "block.1").plan
    assert parse_plan(plan.document, "here").hash == plan.hash
    assert plan.rows_dtype == "float8_e4m3,final=bfloat16"
    assert [plan.is_lossy(site) for site in ("embed", "final", "block.9")] == [True, False, False]
    bare = replace(plan, sites=tuple(replace(site, dtype=None) for site in plan.sites))
    assert (bare.rows_dtype, bare.format, plan.format) == ("bfloat16", 3, 5)


@pytest.mark.parametrize("rows", [np.zeros((12, 4), np.float32), np.zeros((12, 5), np.uint8)])
def test_rows_that_are_not_as_computed_are_refused(tmp_path: Path, rows: np.ndarray) -> None:
    capture = rounded(make_capture(), "final")
    writer = RunWriter(create_store(tmp_path).path, capture.plan, capture.prompts)
    hidden, tokens = capture.shard(0)
    with pytest.raises(ValueError, match=r"should be uint16 \(12, 4\)"):
        writer.write_shard(0, {**hidden, "final": rows}, tokens)


@pytest.fixture
def golden(tmp_path: Path) -> Run:
    """The store of `golden_v5_fp8`."""
    write_alike(tmp_path / "v5", golden_v5_fp8)
    (run,) = open_store(tmp_path / "v5").runs.values()
    return run


def test_the_golden_run_is_written_alike(golden: Run, tmp_path: Path) -> None:
    assert golden.verify() == []
    rows = rows_of(golden.array("block.1"))
    expected = FLOAT8_ROWS.copy()
    expected[0] = [448, 16, 2**-9, 0]  # 17 and 2^-10 lie halfway: the even code
    expected[1] = [448, -16, 3, 1]  # 449: the scale is 2
    expected[2, 2] = 0
    expected[3, :2] = np.nan, -np.nan
    assert np.array_equal(rows, expected, equal_nan=True)
    assert np.array_equal(np.signbit(rows), np.signbit(FLOAT8_ROWS))
    assert golden.quarantined.tolist() == [1]
    assert rows_of(golden.array("final")).tobytes() == FLOAT8_ROWS.tobytes()
    write_alike(tmp_path / "again", golden_v5_fp8)
    assert stored_objects(golden.directory.root) == stored_objects(tmp_path / "again")


def test_altered_codes_are_found_and_a_shard_is_repaired(tmp_path: Path) -> None:
    capture = rounded(make_capture(), "embed", "block.1", "final")
    run = capture.write(tmp_path)
    before = stored_objects(run.directory.root)
    path = object_path(run.path / "shards/00001", "hidden.zarr/final/c/0/0")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    run = open_store(tmp_path).runs[run.id]
    assert [p.where.partition("/hidden")[0][:12] for p in run.verify()] == ["shards/00001"]
    with pytest.raises(FormatError, match="altered since they were committed") as caught:
        list(run.blocks("final"))
    assert caught.value.kind is ErrorKind.CORRUPT
    writer = RunWriter(tmp_path, capture.plan, capture.prompts, replacing=[1])
    writer.write_shard(1, *capture.shard(1))
    assert open_store(tmp_path).runs[run.id].verify() == []
    assert stored_objects(run.directory.root) == before
    shutil.rmtree(on_disk(run.path) / "shards/00002")  # resumed by another writer
    assert capture.write(tmp_path).missing_shards == ()
    assert stored_objects(run.directory.root) == before


@pytest.mark.parametrize("sites", [("final",), ("embed",)])
def test_logits_are_not_proved_from_rounded_rows(tmp_path: Path, sites: tuple[str, ...]) -> None:
    capture = rounded(make_capture(), *sites)
    run = capture.write(tmp_path)
    weight = np.zeros((run.plan.model.logits_width, 4), np.float32)
    commit_head(
        objects_at(tmp_path), run.plan, HeadContent(matrix=Matrix(dtype="float32", weight=weight))
    )
    check = check_logits(run)
    assert check is not None
    found = logits_problems(run, check)
    if "final" in sites:
        assert found == []
        assert str(check).endswith("not compared, because final is rounded to float8_e4m3")
    else:
        assert len(found) == 1  # a head of zeros is not that of the run
