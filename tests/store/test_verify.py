"""Damage of every kind is found with its place, and hurts nothing but what it touched."""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_disk import on_disk
from sealed import reseal
from small_capture import Capture, make_capture
from stored import objects_dir

from lpp.store import Run, open_store
from lpp.store.errors import ErrorKind, FormatError


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << (offset % 8)
    path.write_bytes(data)


def reopen(run: Run) -> Run:
    return open_store(run.path.parent.parent).runs[run.id]


def home(run: Run, shard: int | None = None) -> Path:
    """Where the objects of the run, or of one of its shards, lie."""
    return objects_dir(run.path if shard is None else run.path / f"shards/{shard:05d}")


def key_of(run: Run, path: Path) -> str:
    return path.relative_to(on_disk(run.path)).as_posix()


def objects(run: Run) -> list[str]:
    return sorted(key_of(run, path) for path in on_disk(run.path).rglob("*") if path.is_file())


def test_undamaged_run_has_no_problem(run: Run) -> None:
    assert run.verify() == []
    assert len(objects(run)) == 3 + 3 * (2 + 1 + 3 * 2)


@pytest.mark.slow
def test_altered_byte_of_every_object_is_found(run: Run) -> None:
    seeded = random.Random(5)
    for key in objects(run):
        path = on_disk(run.path) / key
        good = path.read_bytes()
        size = len(good)
        for offset in {0, size - 1, *(seeded.randrange(size) for _ in range(4))}:
            flip(path, offset)
            where = {problem.where for problem in reopen(run).verify()}
            assert where == {key}, (key, offset)
            path.write_bytes(good)
    assert reopen(run).verify() == []


@pytest.mark.parametrize("key", ["hidden.zarr/block.1/c/0/0", "hidden.zarr/block.1/zarr.json"])
def test_altered_activations_never_become_numbers(run: Run, capture: Capture, key: str) -> None:
    flip(home(run, 1) / key, 30)
    again = reopen(run)
    with pytest.raises(FormatError, match=rf"{key}: .*altered") as caught:
        list(again.hidden("block.1"))
    assert caught.value.kind is ErrorKind.CORRUPT
    assert "lpp-analyze verify" in str(caught.value)
    # other sites, and other shards of the same site, still read
    assert sum(len(values) for values in again.hidden("final")) == sum(capture.lengths)
    blocks = again.blocks("block.1", prompts=2)
    assert np.concatenate([b.values for b in blocks]).shape == (12, 4)


def test_an_altered_index_is_found_and_changes_no_row(run: Run) -> None:
    for key in (key for key in objects(run) if key.endswith("final/c/0/0")):
        path = on_disk(run.path) / key
        good, rows = path.read_bytes(), np.concatenate([b.values for b in run.blocks("final")])
        path.write_bytes(good[:-4] + bytes(4))  # the checksum of the index, which lies behind it
        damaged = reopen(run)
        again = np.concatenate([block.values for block in damaged.blocks("final")])
        np.testing.assert_array_equal(again, rows)
        assert {problem.where for problem in damaged.verify()} == {key}
        path.write_bytes(good)


def test_altered_tokens_and_prompts_never_become_numbers(run: Run) -> None:
    flip(home(run, 2) / "tokens.arrow", 900)
    flip(home(run) / "prompts.arrow", 700)
    again = reopen(run)
    reads: list[tuple[str, Any]] = [
        ("tokens.arrow", again.tokens),
        ("tokens.arrow", again.tokens_files),
        ("prompts.arrow", again.prompts),
        ("prompts.arrow", lambda: list(again.blocks("final"))),
    ]
    for name, read in reads:
        with pytest.raises(FormatError, match=name + ": altered"):
            read()
    assert [problem.where for problem in again.verify()] == [
        key_of(run, home(run) / "prompts.arrow"),
        key_of(run, home(run, 2) / "tokens.arrow"),
    ]
    flip(home(run) / "prompts.arrow", 700)
    assert len(list(reopen(run).blocks("final"))) == 3  # needs no token statistics


@pytest.mark.parametrize("keep", [0, 1, -1])
def test_truncation_is_found(run: Run, keep: int) -> None:
    path = home(run, 0) / "hidden.zarr/final/c/0/0"
    key = key_of(run, path)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    (problem,) = reopen(run).verify()
    assert str(problem) == f"{key}: {len(data[:keep])} bytes, {len(data)} were committed"
    with pytest.raises(FormatError, match=r"final/c/0/0: not the array that was committed"):
        list(reopen(run).hidden("final"))


@pytest.mark.parametrize(
    ("shard", "key"),
    [(1, "tokens.arrow"), (1, "hidden.zarr/final/c/0/0"), (None, "prompts.arrow")],
)
def test_missing_object_is_found(run: Run, shard: int | None, key: str) -> None:
    path = home(run, shard) / key
    path.unlink()
    (problem,) = reopen(run).verify()
    assert str(problem) == f"{key_of(run, path)}: not readable (No such file or directory)"
    with pytest.raises(FormatError, match=f"{key}: missing"):
        _ = [reopen(run).prompts(), reopen(run).tokens(), *reopen(run).hidden("final")]


@pytest.mark.timeout(60)
def test_a_file_of_another_size_is_not_read(run: Run) -> None:
    for path in (home(run) / "prompts.arrow", home(run, 1) / "hidden.zarr/final/c/0/0"):
        good = path.read_bytes()
        os.truncate(path, 1 << 40)  # holes: it takes no room, and hours to read
        (problem,) = reopen(run).verify()
        assert problem.where == key_of(run, path)
        assert problem.what == f"{1 << 40} bytes, {len(good)} were committed"
        with pytest.raises(FormatError):
            (reopen(run).prompts(), list(reopen(run).hidden("final")))
        path.write_bytes(good)


def test_object_replaced_by_a_directory_is_found(run: Run) -> None:
    path = home(run, 1) / "tokens.arrow"
    path.unlink()
    path.mkdir()
    (problem,) = reopen(run).verify()
    assert problem.where == key_of(run, path)
    with pytest.raises(FormatError, match=r"tokens.arrow: not a file"):
        reopen(run).tokens()


@pytest.mark.parametrize(
    "key",
    ["notes.txt", "shardsandmore", "shards/00000/BASE/hidden.zarr/final/c/1/0", "shards/00009"],
)
def test_extra_file_is_found(run: Run, key: str) -> None:
    key = key.replace("BASE", home(run, 0).name)
    path = on_disk(run.path) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("who put this here?")
    (problem,) = reopen(run).verify()
    assert problem.where == key
    assert problem.what in ("not part of what was committed", "not a shard of the plan")
    assert len(reopen(run).shards) == 3


def test_swapped_shards_are_found_and_not_read(run: Run) -> None:
    path = on_disk(run.path)
    first, second = path / "shards/00000", path / "shards/00001"
    first.rename(path / "aside")
    second.rename(first)
    (path / "aside").rename(second)
    again = reopen(run)
    assert [(p.where, p.what.rpartition(": ")[2]) for p in again.verify()] == [
        ("shards/00000/COMMIT.json", "holds the record of shard 1."),
        ("shards/00001/COMMIT.json", "holds the record of shard 0."),
    ]
    assert set(again.left_out) == {0, 1}
    assert again.missing_shards == (0, 1)
    assert again.n_prompts == 0
    assert [block.prompt_id.tolist() for block in again.blocks("final")] == [[3] * 6]


def test_missing_shard_is_found(run: Run) -> None:
    shutil.rmtree(on_disk(run.path) / "shards/00001")
    again = reopen(run)
    (problem,) = again.verify()
    assert problem.where == "shards/00001/COMMIT.json"
    assert "not committed" in problem.what
    assert (again.missing_shards, again.n_prompts) == ((1,), 2)


def test_swapped_objects_are_found(run: Run) -> None:
    final = home(run, 0) / "hidden.zarr/final/c/0/0"
    embed = home(run, 0) / "hidden.zarr/embed/c/0/0"
    data = final.read_bytes()
    final.write_bytes(embed.read_bytes())
    embed.write_bytes(data)
    assert [p.where.split("hidden.zarr/")[1] for p in reopen(run).verify()] == [
        "embed/c/0/0",
        "final/c/0/0",
    ]


def test_prompts_and_plan_of_another_run_are_found(run: Run) -> None:
    other = make_capture(seed=1).write(run.path.parent.parent)
    for key in ("prompts.arrow", "plan.json"):
        path = home(run) / key
        good = path.read_bytes()
        shutil.copy(home(other) / key, path)
        assert {p.where for p in reopen(run).verify()} == {key_of(run, path)}
        path.write_bytes(good)
    shutil.copy(home(other) / "plan.json", home(run) / "plan.json")
    with pytest.raises(FormatError, match=r"plan.json: altered or cut short"):
        _ = reopen(run).plan


def test_a_whole_shard_of_another_run_is_found(run: Run) -> None:
    other = make_capture(seed=1).write(run.path.parent.parent)
    shard = on_disk(run.path) / "shards/00001"
    shutil.rmtree(shard)
    shutil.copytree(on_disk(other.path) / "shards/00001", shard)
    (problem,) = reopen(run).verify()
    assert problem.where == "shards/00001/COMMIT.json"
    assert "another run" in problem.what
    assert reopen(run).missing_shards == (1,)


def test_consistent_records_with_wrong_meaning_are_found(run: Run, capture: Capture) -> None:
    # A shard sealed by a careless writer: prompts of the right plan, in another order.
    from lpp.store.format.tables import encode_table

    shard, base = run.path / "shards/00000", home(run, 0)
    tokens = capture.shard(0)[1]
    swapped = tokens.take([*range(5, 12), *range(5)])
    (base / "tokens.arrow").write_bytes(encode_table(swapped))
    reseal(shard)
    problems = reopen(run).verify()
    assert {p.where for p in problems} == {key_of(run, base / "tokens.arrow")}
    assert {p.what.split()[0] for p in problems} == {"prompt_id", "position", "token_id"}

    # ... and one with other rows than its record, and no arrays at all.
    shutil.rmtree(base / "hidden.zarr/final")
    reseal(shard, lambda record: record.update(rows=11))
    assert {p.where for p in reopen(run).verify()} == {key_of(run, base / "tokens.arrow")}
    (base / "tokens.arrow").write_bytes(encode_table(tokens.slice(0, 11)))
    reseal(shard, lambda record: record.update(rows=11))
    where = {p.where for p in reopen(run).verify()}
    names = ("tokens.arrow", *(f"hidden.zarr/{site}" for site in ("embed", "block.1", "final")))
    assert where == {key_of(run, base / name) for name in names}
    for site in ("embed", "final"):
        with pytest.raises(FormatError, match="11 rows, its prompts have 12 tokens"):
            list(reopen(run).blocks(site))


def test_damaged_run_record_hides_nothing_else(run: Run) -> None:
    base = home(run, 2)
    flip(base / "tokens.arrow", 40)
    flip(on_disk(run.path) / "COMMIT.json", 40)
    assert [p.where for p in reopen(run).verify()] == [
        "COMMIT.json",
        key_of(run, base / "tokens.arrow"),
    ]
    with pytest.raises(FormatError, match=r"COMMIT.json: "):
        _ = reopen(run).plan


def test_run_that_is_nothing_but_a_directory(run: Run) -> None:
    plan = home(run) / "plan.json"
    (on_disk(run.path) / "COMMIT.json").unlink()
    plan.unlink()
    assert [p.where for p in run.verify()] == ["COMMIT.json", key_of(run, plan)]
    assert run.id not in open_store(run.path.parent.parent).runs
    with pytest.raises(FormatError, match="is not a committed run") as caught:
        _ = Run(run.path).plan
    assert caught.value.kind is ErrorKind.CORRUPT
