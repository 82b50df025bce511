"""Rows of another program: in any order, by several processes, killed and resumed, and bad ones."""

import contextlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from on_disk import on_disk
from places import BUCKET, place_of
from stored import object_path
from zarr_arrays import rows_of

from lpp.store import RowSink, Run, RunWriter, open_store, sink
from lpp.store.errors import ConflictError, ErrorKind, InputError, MachineError, NotFoundError
from lpp.store.format.plan import SiteDtype, SiteSpec
from lpp.store.objects.place import Url
from lpp.store.runs.heartbeat import writers

SITES: dict[str, int | tuple[int, SiteDtype]] = {
    "blocks.0.hook_resid_post": 24,
    "blocks.1.attn.hook_z": 32,
    "router.0": (2, "uint8"),
    "counts": (1, "int32"),
    "places": (2, "uint16"),
}
LENGTHS = np.random.default_rng(1).integers(1, 90, 60).tolist()
PROMPTS = [
    {"input_ids": [(7 * k + t) % 50 for t in range(n)], "id": k, "label": "ab"[k % 2]}
    for k, n in enumerate(LENGTHS)
]


def given_rows(number: int) -> dict[str, Any]:
    """The rows of a prompt: as a collector has them, tensors of several shapes and types."""
    draw, n = torch.Generator().manual_seed(number), LENGTHS[number]
    return {
        "blocks.0.hook_resid_post": torch.randn(n, 24, generator=draw).bfloat16(),
        "blocks.1.attn.hook_z": torch.randn(n, 4, 8, generator=draw).bfloat16(),
        "router.0": torch.randint(0, 256, (n, 2), generator=draw),
        "counts": np.arange(n) - 70_000,
        "places": np.full((n, 2), 40_000 + number),
    }


def stored_rows(number: int) -> dict[str, np.ndarray]:
    """The same as they should lie on disk."""
    rows = given_rows(number)
    floats = list(SITES)[:2]
    bits = {name: rows[name].float().numpy().reshape(LENGTHS[number], -1) for name in floats}
    return {
        **{name: (values.view(np.uint32) >> 16).astype(np.uint16) for name, values in bits.items()},
        "router.0": rows["router.0"].numpy().astype(np.uint8),
        "counts": rows["counts"].astype(np.int32).reshape(-1, 1),
        "places": rows["places"].astype(np.uint16),
    }


def opened(root: Url, **changes: Any) -> RowSink:
    """A sink of several shards."""
    settings: dict[str, Any] = {
        "model": {"id": "lab/tiny", "logits_width": 50},
        "sites": SITES,
        "prompts": PROMPTS,
        "dtype": "bfloat16",
        "collector": "a test",
        "shard_bytes": 30_000,
    }
    return sink(root, **settings | changes)


def check_run(run: Run, missing: Collection[int] = ()) -> None:
    """Every row of every prompt is as given, and nothing else is there."""
    assert run.verify() == []
    for name in SITES:
        blocks = list(run.blocks(name, dtype="stored"))
        values = np.concatenate([block.values for block in blocks])
        prompt = np.concatenate([block.prompt_id for block in blocks])
        expected = [stored_rows(k)[name] for k in range(len(PROMPTS)) if k not in missing]
        assert values.dtype == expected[0].dtype
        np.testing.assert_array_equal(values, np.concatenate(expected))
        assert {*prompt.tolist()} == {*range(len(PROMPTS))} - {*missing}


PROCESS = """
import os, random, signal, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_sink import given_rows, opened

part, seed, kill_after = map(int, sys.argv[4:])
with opened(Path(sys.argv[3])) as rows:
    prompts = list(rows.missing((part, 2)))
    random.Random(seed).shuffle(prompts)
    for count, prompt in enumerate(prompts):
        if count == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        rows.put(prompt, given_rows(prompt.number))
"""


def start(root: Path, part: int, seed: int, kill_after: int = -1) -> "subprocess.Popen[str]":
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    arguments = [str(word) for word in (root, part, seed, kill_after)]
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *folders, *arguments], stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_in_any_order_a_kill_and_a_resume(root: Path) -> None:
    first = [start(root, 0, seed=3, kill_after=22), start(root, 1, seed=4)]
    assert [process.communicate()[1] and process.returncode for process in first] == ["", ""]
    assert [process.returncode for process in first] == [-9, 0]
    (run,) = open_store(root).runs.values()
    assert 0 < len(run.shards) < run.plan.n_shards
    before = {shard.index: shard.digest for shard in run.shards}
    again = [start(root, part, seed=5 + part) for part in (0, 1)]
    assert [process.communicate()[1] for process in again] == ["", ""]
    (run,) = open_store(root).runs.values()
    assert before.items() <= {shard.index: shard.digest for shard in run.shards}.items()
    assert run.plan.format == 5
    check_run(run)
    assert run.prompts("id", "field.label")["field.label"].to_pylist() == ["a", "b"] * 30
    tokens = run.tokens().to_table()
    assert tokens["token_id"].to_pylist() == [t for p in PROMPTS for t in p["input_ids"]]  # type: ignore[attr-defined]
    assert tokens["entropy"].null_count == tokens.num_rows == sum(LENGTHS)


def test_other_readers_see_the_rows(root: Path) -> None:
    with opened(root) as rows:
        for prompt in rows.missing():
            rows.put(prompt, given_rows(prompt.number))
        assert [writer.doing for writer in writers(rows.run.path / "shards")] == ["rows of a test"]
    assert writers(rows.run.path / "shards") == []
    shard = open_store(root).runs[rows.run.id].shards[1]
    group = zarr.open_group(str(shard.objects.place / "hidden.zarr"), mode="r")
    arrays = dict(group.arrays())
    assert sorted(arrays) == sorted(SITES)
    for name in SITES:
        expected = [stored_rows(k)[name] for k in range(shard.first_prompt, shard.end_prompt)]
        np.testing.assert_array_equal(rows_of(arrays[name]), np.concatenate(expected))
    run = rows.run
    assert rows_of(run.array("counts", dtype="stored"))[:2].ravel().tolist() == [-70_000, -69_999]
    for read in (lambda: list(run.blocks("counts")), lambda: run.array("router.0")):
        with pytest.raises(InputError, match=r'holds integers .* dtype="stored"'):
            read()


@pytest.mark.slow
def test_what_cannot_be_stored_is_set_aside_and_the_rest_goes_on(root: Path) -> None:
    with opened(root) as rows:
        for prompt in rows.missing():
            values = given_rows(prompt.number)
            if prompt.number == 5:
                rows.set_aside(5, "the engine died")
                continue
            if prompt.number in (7, 9):
                values["blocks.1.attn.hook_z"][-1, 2, 3] = np.nan if prompt.number == 7 else np.inf
            rows.put(prompt, values)
    run = rows.run
    aside = run.quarantine.to_pylist()
    at = {k: LENGTHS[k] - 1 for k in (7, 9)}
    site, reason = "blocks.1.attn.hook_z", "not_finite"
    assert [(row["prompt_id"], row["reason"], row["site"], row["position"]) for row in aside] == [
        (5, "failed", None, None),
        (7, reason, site, at[7]),
        (9, reason, site, at[9]),
    ]
    assert aside[0]["detail"] == "the engine died"
    assert run.set_aside().lines() == [
        "3 of 60 prompts are set aside:",
        f"  2 hold NaN or infinities, which begin at {site}",
        "  1 failed in the program that collected the rows",
    ]
    check_run(open_store(root).runs[run.id], missing={5, 7, 9})


BAD_ROWS: dict[str, tuple[Callable[[dict[str, Any]], Mapping[str, Any]], str]] = {
    "width": (
        lambda rows: rows | {"router.0": rows["router.0"][:, :1]},
        r"router.0: rows are int64 \(\d+, 1\), should be uint8 \(\d+, 2\)",
    ),
    "tokens": (
        lambda rows: rows | {"counts": rows["counts"][1:]},
        r"counts: rows are int64 \(\d+,\), should be int32 \(\d+, 1\)",
    ),
    "float32": (
        lambda rows: rows | {"blocks.1.attn.hook_z": rows["blocks.1.attn.hook_z"].float()},
        r"hook_z: rows are float32, should be bfloat16 .*: convert them",
    ),
    "beyond uint8": (
        lambda rows: rows | {"router.0": rows["router.0"] + 200},
        r"router.0: rows hold \d+ to \d+, should be uint8",
    ),
    "bits of floats as integers": (
        lambda rows: rows | {"places": rows["blocks.0.hook_resid_post"][:, :2]},
        r"places: rows are bfloat16, should be uint16",
    ),
    "sites": (
        lambda rows: {"counts": rows["counts"], "final": rows["counts"]},
        r"'final' is no site of it; blocks.0.hook_resid_post: no rows; .*places: no rows",
    ),
    "no array": (lambda rows: rows | {"counts": object()}, "counts: rows are object"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_rows_that_do_not_fit_are_refused_whole(root: Path, kind: str) -> None:
    change, message = BAD_ROWS[kind]
    with opened(root) as rows:
        for prompt in rows.missing():
            if prompt.number == 3:
                with pytest.raises(InputError, match=rf"prompts\[3\]: .*{message}") as caught:
                    rows.put(prompt, change(given_rows(3)))
                assert caught.value.kind is ErrorKind.INVALID_VALUE
            rows.put(prompt, given_rows(prompt.number))
    check_run(rows.run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", BUCKET])
def test_a_sink_resumes_where_it_is(kind: str, request: pytest.FixtureRequest) -> None:
    url = place_of(kind, request).url
    for first, stop in ((0, 40), (40, 60)):
        rows = opened(url)
        waiting = [prompt.number for prompt in rows.missing()]
        assert waiting == [k for k in range(60) if k >= rows.run.n_prompts]
        assert rows.run.n_prompts <= first
        for number in [k for k in waiting if k < stop]:
            rows.put(number, given_rows(number))
    check_run(open_store(url).runs[rows.run.id])


def test_prompts_that_were_given_or_are_none(root: Path) -> None:
    rows = opened(root)
    with rows:
        for prompt in rows.missing():
            rows.put(prompt, given_rows(prompt.number))
            with pytest.raises(InputError, match=rf"prompts\[{prompt.number}\] was given before"):
                rows.put(prompt.number, given_rows(prompt.number))
        assert list(rows.missing()) == []
        with pytest.raises(NotFoundError, match=r"prompts\[60\]: run tiny-\w+ has none; it has 60"):
            rows.put(60, {})
        with pytest.raises(InputError, match=r"part \(2, 2\): give \(k, n\)"):
            next(rows.missing((2, 2)))
    with opened(root) as again, pytest.raises(InputError, match="given before"):
        again.set_aside(0, "late")
    other = [{**prompt, "label": "c"} for prompt in PROMPTS]
    with pytest.raises(ConflictError, match=r"other values of field.label in 60 prompts"):
        opened(root, prompts=other)


def test_a_shard_that_lacks_prompts_is_told_of(root: Path) -> None:
    message = (
        r"the rows of 1 prompts are not stored, .* other prompts of theirs were not given: 1, 2"
    )
    with pytest.raises(InputError, match=message) as caught, opened(root) as rows:
        rows.put(0, given_rows(0))
    assert caught.value.kind is ErrorKind.INCOMPLETE
    rows = opened(root)
    rows.put(0, given_rows(0))
    rows.__exit__(ValueError, ValueError(), None)  # an error of the block is not replaced


@pytest.mark.slow
def test_open_shards_beyond_memory_lie_in_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with opened(root, memory_bytes=0) as rows:
        first, *prompts = rows.missing()
        rows.put(first, given_rows(first.number))
        last = prompts.pop()
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(tmp_path / "none"))
            with pytest.raises(MachineError, match=r"no room for .* in .*/none"):
                rows.put(last, given_rows(last.number))
        for prompt in [last, *prompts[::2], *prompts[1::2]]:
            rows.put(prompt, given_rows(prompt.number))
        assert [path.name for path in tmp_path.iterdir()] == ["store"]
    check_run(rows.run)


@pytest.mark.slow
def test_a_shard_that_could_not_be_written_is_written_at_the_end(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunWriter.write_shard
    failed: list[int] = []

    def full_once(writer: RunWriter, index: int, *content: Any) -> Any:
        if index == 1 and not failed:
            failed.append(index)
            raise MachineError("the disk is full", kind=ErrorKind.NO_SPACE)
        return write(writer, index, *content)

    monkeypatch.setattr(RunWriter, "write_shard", full_once)
    with opened(root) as rows:
        for prompt in rows.missing():
            with contextlib.suppress(MachineError):
                rows.put(prompt, given_rows(prompt.number))
        assert rows.run.uncommitted(range(rows.run.plan.n_shards)) == failed == [1]
    check_run(open_store(root).runs[rows.run.id])


@pytest.mark.slow
def test_damaged_shards_are_given_again(root: Path) -> None:
    def give(repair: bool = False) -> list[int]:
        with opened(root, repair=repair) as rows:
            prompts = list(rows.missing())
            for prompt in prompts:
                rows.put(prompt, given_rows(prompt.number))
        return [prompt.number for prompt in prompts]

    assert give(repair=True) == list(range(60))
    (run,) = open_store(root).runs.values()
    shard = on_disk(run.path) / "shards/00002"
    file = object_path(shard, "hidden.zarr/counts/c/0/0")
    file.write_bytes(file.read_bytes()[::-1])
    assert run.verify()
    assert give() == []
    assert give(repair=True) == list(range(*run.plan.shards[2:4]))
    check_run(open_store(root).runs[run.id])


def test_prompts_that_cannot_be_used(root: Path) -> None:
    prompts: list[Any] = [np.array([1, 2]), [], torch.tensor([3]), [4, 50], (5, -1), range(3)]
    with pytest.warns(UserWarning, match=r"3 of 6 prompts are set aside, such as prompts\[1\]"):
        rows = opened(root, prompts=prompts, sites={"a": 1}, dtype="float32")
    texts = rows.run.texts_set_aside().to_pylist()
    assert [(text["source_row"], text["reason"]) for text in texts] == [
        (1, "no_tokens"),
        (3, "bad_tokens"),
        (4, "bad_tokens"),
    ]
    assert texts[1]["detail"] == "id 50 at position 1, ids are 0 to 49"
    given = {prompt.number: prompt.token_ids for prompt in rows.missing()}
    assert given == {0: [1, 2], 2: [3], 5: [0, 1, 2]}
    with pytest.raises(NotFoundError, match=r"prompts\[1\]"):
        rows.put(1, {})
    with rows:
        for number, ids in given.items():
            rows.put(number, {"a": np.array(ids, np.float32)})
    (values,) = rows.run.hidden("a")
    assert values.ravel().tolist() == [1, 2, 3, 0, 1, 2]
    assert rows.run.verify() == []


def test_values_by_token_are_those_of_a_capture(root: Path) -> None:
    prompts = [
        {"input_ids": [3, 4], "loss_mask": [0, 1], "reward": torch.tensor([0.5, -1])},
        {"input_ids": [5], "loss_mask": np.array([True]), "reward": None},
    ]
    site = SiteSpec(name="block.1", convention="residual", width=1)
    model = {"id": "a", "n_blocks": 1}
    settings = {"prompts": prompts, "sites": {"block.1": site}, "dtype": "float32"}
    with opened(root, model=model, **settings) as rows:
        for prompt in rows.missing():
            rows.put(prompt, {"block.1": np.zeros((len(prompt.token_ids), 1), np.float32)})
    run = Run(rows.run.path)
    assert run.verify() == []
    assert not run.plan.has_given_sites
    table = run.prompts("token.loss_mask", "token.reward")
    assert table["token.loss_mask"].to_pylist() == [[False, True], [True]]
    assert table["token.reward"].to_pylist() == [[0.5, -1.0], None]


BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "slash": ({"sites": {"a/b": 2}}, r"site 'a/b' has a slash"),
    "metadata": ({"sites": {"zarr.json": 2}}, "is that of metadata"),
    "dot": ({"sites": {".a": 2}}, "has a part '.a'"),
    "width": ({"sites": {"a": 0}}, "site 'a' has 0 columns"),
    "dtype": ({"sites": {"a": (2, "int64")}}, "site 'a' is of int64; there are bfloat16"),
    "no site": ({"sites": {}}, "at least one site"),
    "model": ({"model": {"id": "a", "layers": 3}}, "model has no layers; its fields are id"),
    "no blocks": (
        {"sites": {"final": SiteSpec(name="final", convention="post_norm", width=2)}},
        "model.n_blocks is 0, and sites are final",
    ),
    "nameless": ({"model": {}}, "model needs a name"),
    "blocks": ({"model": {"id": "a", "n_blocks": "3"}}, "model.n_blocks should be int, is '3'"),
    "run dtype": ({"dtype": "uint8"}, "dtype='uint8'"),
    "ids": ({"prompts": [[1], ["a"]]}, r"prompts\[1\]: .* is no list of token ids"),
    "text": ({"prompts": ["a text"]}, r"prompts\[0\]: 'a text' is no list"),
    "short mask": (
        {"prompts": [[1], {"input_ids": [1, 2], "x": [1]}]},
        r"prompts\[1\]: field 'x' has 1 values for 2 tokens",
    ),
    "no mask": (
        {"prompts": [{"input_ids": [1, 2], "loss_mask": [0, 2]}]},
        r"prompts\[0\]: field 'loss_mask' is not a list of 0 and 1",
    ),
    "lists": ({"prompts": [{"input_ids": [1, 2], "x": [[1], [1, 2]]}]}, "not a list of numbers"),
    "mixed": (
        {"prompts": [{"input_ids": [1], "x": 1}, {"input_ids": [1], "x": "b"}]},
        r"field 'x' is of several types: .* in prompts\[0\] and .* in prompts\[1\]",
    ),
    "none": ({"prompts": []}, "none of 0 can be used"),
    "no ids": ({"prompts": [[]]}, r"none of 1 can be used; prompts\[0\]: no ids"),
}


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_calls_that_do_not_fit_make_nothing(root: Path, kind: str) -> None:
    changes, message = BAD_CALLS[kind]
    with warnings.catch_warnings(), pytest.raises(InputError, match=message):
        opened(root, **changes)
    assert not root.exists()
