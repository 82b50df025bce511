"""Reading a run: blocks with the token of each row, cut at any prompt, in bounded memory."""

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_disk import on_disk
from small_capture import Capture, make_capture
from stored import object_path

from lpp.store import Run
from lpp.store.arrays.layout import chunk_rows
from lpp.store.arrays.reader import ReadAs
from lpp.store.errors import ErrorKind, FormatError, InputError


def expected_rows(capture: Capture, site: str, n_prompts: int) -> tuple[np.ndarray, ...]:
    """Slow reference: one row at a time."""
    values, prompt_id, position = [], [], []
    row = 0
    for prompt, length in enumerate(capture.lengths):
        for at in range(length):
            if prompt < n_prompts:
                values.append(capture.hidden[site][row].astype(np.uint32) << 16)
                prompt_id.append(prompt)
                position.append(at)
            row += 1
    width = capture.hidden[site].shape[1]
    return np.array(values, np.uint32).reshape(-1, width), np.array(prompt_id), np.array(position)


@pytest.mark.parametrize("prompts", [None, 0, 1, 2, 3, 4, 99])
def test_blocks_hold_the_first_prompts_in_order(
    run: Run, capture: Capture, prompts: int | None
) -> None:
    for site in run.sites:
        blocks = list(run.blocks(site, prompts=prompts))
        values, ids, positions = expected_rows(capture, site, 99 if prompts is None else prompts)
        found = [b.values for b in blocks] or [np.zeros((0, 4), np.float32)]
        assert np.array_equal(np.concatenate(found).view(np.uint32), values)
        assert [i for b in blocks for i in b.prompt_id.tolist()] == ids.tolist()
        assert [p for b in blocks for p in b.position.tolist()] == positions.tolist()
        for block in blocks:
            assert block.values.dtype == np.float32
            assert block.values.flags.c_contiguous
            assert block.values.flags.writeable
            assert block.prompt_id.dtype == block.position.dtype == np.int32
            assert len(block.values) == len(block.prompt_id) == len(block.position) > 0


@pytest.mark.parametrize("block_rows", [1, 128, 150, 256, 10_000])
@pytest.mark.parametrize("prompts", [1, 2, 3])
def test_block_boundaries_fall_anywhere(root: Path, block_rows: int, prompts: int) -> None:
    width = 4096
    assert chunk_rows(width, 2) == 128
    lengths, rng = (255, 258, 200), np.random.default_rng(0)
    rows = rng.integers(0, 1 << 15, (sum(lengths), width), np.uint16)
    run = make_capture(lengths, (0, 2, 3), hidden={"final": rows}).write(root)
    blocks = list(run.blocks("final", prompts=prompts, block_bytes=4 * width * block_rows))
    n = sum(lengths[:prompts])
    assert sum(len(b.values) for b in blocks) == n
    assert max(len(b.values) for b in blocks) <= max(128, block_rows)
    values = np.concatenate([b.values for b in blocks])
    assert np.array_equal(values.view(np.uint32) >> 16, rows[:n])
    ids = np.concatenate([b.prompt_id for b in blocks])
    assert ids.tolist() == np.repeat(range(prompts), lengths[:prompts]).tolist()


def test_memory_is_a_few_blocks_whatever_the_shard(root: Path) -> None:
    width, n = 1024, 8192  # 16 MiB in bfloat16, 32 MiB as float32
    rows = np.random.default_rng(0).integers(0, 1 << 15, (n, width), np.uint16)
    capture = make_capture((n // 2, n // 2), (0, 2), hidden={"final": rows})
    run = capture.write(root)
    list(run.blocks("final", prompts=0))  # imports and checksums
    next(run.blocks("final", block_bytes=4 << 20))  # buffers that threads keep
    tracemalloc.start()
    for _ in run.blocks("final", block_bytes=4 << 20):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20  # two blocks and the chunks under them, not the 32 MiB


def test_run_describes_itself(run: Run, capture: Capture) -> None:
    assert run.id == run.path.name == capture.plan.run_id
    assert run.plan == capture.plan
    assert run.sites == ("embed", "block.1", "final")
    assert [(s.index, s.rows, s.first_prompt, s.end_prompt) for s in run.shards] == [
        (0, 12, 0, 2),
        (1, 3, 2, 3),
        (2, 6, 3, 4),
    ]
    assert len({s.digest for s in run.shards}) == 3
    assert (run.missing_shards, run.n_prompts) == ((), 4)
    assert repr(run) == f"Run({run.id!r}, 3 of 3 shards)"


def test_tables_come_back_whole(run: Run, capture: Capture) -> None:
    assert run.prompts().equals(capture.prompts)
    assert run.tokens().to_table().equals(capture.tokens)
    assert [p.parents[1].name for p in run.tokens_files()] == ["00000", "00001", "00002"]
    one_column = run.tokens().to_table(columns=["entropy"], filter=None)
    assert one_column["entropy"].to_pylist() == capture.tokens["entropy"].to_pylist()


def test_unknown_site_names_those_there_are(run: Run) -> None:
    with pytest.raises(InputError, match=r"no site 'block.9'; it has embed, block.1, final") as no:
        list(run.blocks("block.9"))
    assert no.value.kind is ErrorKind.NOT_FOUND


def test_shards_with_a_gap(capture: Capture, root: Path) -> None:
    run = capture.write(root, shards=(0, 2))
    assert (run.missing_shards, run.n_prompts) == ((1,), 2)
    assert [b.prompt_id[0] for b in run.blocks("final")] == [0, 3]
    assert [b.prompt_id[-1] for b in run.blocks("final", prompts=run.n_prompts)] == [1]


def test_run_without_shards(capture: Capture, root: Path) -> None:
    run = capture.write(root, shards=())
    assert (run.missing_shards, run.n_prompts, run.shards) == ((0, 1, 2), 0, ())
    assert list(run.blocks("final")) == []
    assert run.tokens_files() == []
    assert run.tokens().to_table().num_rows == 0
    assert run.prompts().equals(capture.prompts)


def test_run_of_no_prompts(root: Path) -> None:
    run = make_capture((), (0,)).write(root)
    assert run.verify() == []
    assert (run.n_prompts, run.shards, run.prompts().num_rows) == (0, (), 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_stored_dtype_reads_as_float32(root: Path, dtype: str) -> None:
    capture = make_capture(stored_dtype=dtype)
    run = capture.write(root)
    stored = capture.hidden["final"]
    values = np.concatenate(list(run.hidden("final")))
    expected = stored if dtype != "bfloat16" else (stored.astype("<u4") << 16).view("<f4")
    assert np.array_equal(values, expected.astype(np.float32), equal_nan=True)
    assert run.verify() == []


def test_files_are_compared_once_and_chunks_whenever_they_are_read(run: Run) -> None:
    tokens = object_path(run.path / "shards/00000", "tokens.arrow")
    rows = object_path(run.path / "shards/00000", "hidden.zarr/final/c/0/0")
    run.tokens_files()
    list(run.hidden("final"))
    for path in (tokens, rows):
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
    assert len(run.tokens_files()) == 3
    with pytest.raises(FormatError, match="altered since they were committed"):
        list(run.hidden("final"))
    again = pickle.loads(pickle.dumps(run))  # as another process gets it
    with pytest.raises(FormatError, match=r"tokens\.arrow: altered"):
        again.tokens_files()
    assert len(list(run.hidden("embed"))) == 3  # nothing but what was asked for


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rows_come_as_they_are_stored(root: Path, dtype: str) -> None:
    capture = make_capture(stored_dtype=dtype)
    run = capture.write(root)
    blocks = list(run.blocks("final", first=1, prompts=3, dtype="stored"))
    found = np.concatenate([block.values for block in blocks])
    rows = capture.hidden["final"][capture.lengths[0] : sum(capture.lengths[:3])]
    assert found.dtype == rows.dtype
    assert found.tobytes() == rows.tobytes()


@pytest.mark.parametrize("dtype", ["stored", "float32"])
def test_a_site_is_one_array(root: Path, dtype: ReadAs) -> None:
    width = 4096  # 256 rows a chunk: shards end inside the chunks of the whole
    lengths, rng = (255, 258, 200), np.random.default_rng(0)
    rows = rng.integers(0, 1 << 15, (sum(lengths), width), np.uint16)
    run = make_capture(lengths, (0, 2, 3), hidden={"final": rows}).write(root)
    array = run.array("final", dtype=dtype)
    assert array.shape == rows.shape
    wide = (rows.astype(np.uint32) << 16).view(np.float32)
    expected = wide if dtype == "float32" else rows
    assert array.dtype == expected.dtype
    parts: list[Any] = [slice(None), slice(250, 520), slice(700, 713), slice(0, 713, 97), ...]
    parts += [-1, slice(9, 9), slice(600, 2, -7), [712, 3, 3, -1], [], np.arange(713) % 300 == 1]
    parts += [(slice(250, 260), slice(0, 5)), (..., 3), (5, 6), ([700, 2], slice(3, 9))]
    for part in parts:
        assert np.array_equal(array[part], expected[part], equal_nan=True)
    assert np.array_equal(np.asarray(array), expected, equal_nan=True)
    for wrong in (713, [0, -714]):
        with pytest.raises(IndexError):
            array[wrong]


def test_a_site_with_a_gap_is_no_array(capture: Capture, root: Path) -> None:
    with pytest.raises(InputError, match="shards are missing"):
        capture.write(root, shards=(0, 2)).array("final")


def test_shards_that_are_there_and_do_not_count_have_reasons(run: Run) -> None:
    shards = on_disk(run.path) / "shards"
    record = shards / "00001/COMMIT.json"
    record.write_bytes(record.read_bytes()[:-1])
    (shards / "00002/COMMIT.json").unlink()
    again = Run(run.path)
    assert again.missing_shards == (1, 2)
    assert list(again.left_out) == [1]
    assert "00001" in again.left_out[1]
    assert "COMMIT.json" in again.left_out[1]
