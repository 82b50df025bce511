"""Bad shards are computed again from what the run itself says, and nothing else is touched."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from on_disk import on_disk
from sealed import seal
from stored import left_behind, object_path, stored_objects

from lpp.capture.cli.command import main
from lpp.capture.engine.repair import look_at, repair_run
from lpp.capture.plan.from_plan import RepairOptions
from lpp.store import Run, open_store
from lpp.store.arrays.layout import PACKINGS, Packing
from lpp.store.format.tables import encode_table

TEXTS = "\n\n".join("the dog and the fox " * 6 for _ in range(180))
CAPTURE = ["run", "--prompts=180", "--min-bytes=0", "--context=40", "--shard-mib=1"]


@pytest.fixture(scope="module")
def template(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two model folders and `lpp`, a store of a run of five shards and its twin."""
    place = tmp_path_factory.mktemp("repair")
    (place / "texts.txt").write_text(TEXTS)
    shutil.copytree(tiny_folder("llama"), place / "llama")
    shutil.copytree(tiny_folder("llama"), place / "other")
    words = [*CAPTURE, f"--corpus={place / 'texts.txt'}", f"--store={place / 'lpp'}"]
    for twin in ([], ["--untrained-seed=3"]):
        done = CliRunner().invoke(main, [*words, f"--model={place / 'llama'}", *twin])
        assert done.exit_code == 0, done.stderr
    (place / "texts.txt").unlink()  # repair asks for no corpus
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to damage, the current folder."""
    shutil.copytree(template, tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p")
    return tmp_path / "p"


def repair(*words: str) -> Result:
    return CliRunner().invoke(main, ["repair", "lpp", *words])


def runs(place: Path) -> tuple[Run, Run]:
    """The trained run and its twin."""
    found = open_store(place / "lpp").runs.values()
    trained, twin = sorted(found, key=lambda run: run.plan.model.untrained_seed is not None)
    return trained, twin


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def swap(shards: Path) -> None:
    (shards / "00000").rename(shards / "held")
    (shards / "00001").rename(shards / "00000")
    (shards / "held").rename(shards / "00001")


def file_instead(shards: Path) -> None:
    shutil.rmtree(shards / "00001")
    (shards / "00001").write_text("x")


DAMAGE: dict[str, tuple[Callable[[Path], object], list[int], str]] = {
    "altered": (
        lambda s: flip(object_path(s / "00001", "hidden.zarr/block.1/c/0/0")),
        [1],
        "byte for byte",
    ),
    "missing": (lambda s: object_path(s / "00000", "tokens.arrow").unlink(), [0], "byte for byte"),
    "stranger": (lambda s: (s / "00002/x.bin").write_text("x"), [2], "byte for byte"),
    "swapped": (swap, [0, 1], "byte for byte"),
    "record": (lambda s: flip(s / "00001/COMMIT.json"), [1], "nothing to compare"),
    "a file": (file_instead, [1], "nothing to compare"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_exactly_the_bad_shards_come_back_bit_for_bit(place: Path, kind: str) -> None:
    damage, bad, says = DAMAGE[kind]
    run, _ = runs(place)
    assert run.plan.n_shards >= 4
    before = stored_objects(run.path)
    damage(on_disk(run.path) / "shards")
    looked = repair(run.id, "--dry-run")
    assert looked.exit_code == 1
    assert f"0 of 1 runs are whole: {len(bad)} bad shards, 0 computed." in looked.stdout
    whole = [k for k in range(run.plan.n_shards) if k not in bad]
    records = [on_disk(run.path) / f"shards/{k:05d}/COMMIT.json" for k in whole]
    stamps = [record.stat().st_ino for record in records]
    done = repair(run.id, "--model=llama")
    assert done.exit_code == 0, done.output
    assert stored_objects(run.path) == before
    assert [record.stat().st_ino for record in records] == stamps
    assert " ".join(done.stdout.split()).count(says) == len(bad)
    assert f"1 of 1 runs are whole: {len(bad)} bad shards, {len(bad)} computed." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert left_behind(run.path) == []


def test_a_twin_is_repaired_beside_a_run_that_is_whole(place: Path) -> None:
    _, twin = runs(place)
    before = stored_objects(twin.path)
    flip(object_path(twin.path / "shards/00003", "tokens.arrow"))
    done = repair("--model=llama")
    assert done.exit_code == 0, done.output
    assert stored_objects(twin.path) == before
    assert "2 of 2 runs are whole: 1 bad shards, 1 computed." in done.stdout


def test_a_run_is_named_by_its_short_name(place: Path) -> None:
    run, twin = runs(place)
    assert "1 of 1 runs are whole" in repair("untrained*").stdout
    told = repair("UNTRAINED, seed 3", "--dry-run").stdout
    assert told.startswith("untrained, seed 3")
    assert twin.id in told
    flip(object_path(run.path, "plan.json"))  # an unreadable run has no name
    assert repair(run.id, "--dry-run").exit_code == 1
    done = repair("seed 4")
    assert done.exit_code == 2
    assert f"no readable plan: {run.id}" in done.stderr
    assert f"llama, untrained, seed 3: {twin.id}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS[1:], ids=["1 MiB", "2 MiB"])
def test_shards_of_earlier_releases_come_back_as_they_were_packed(
    place: Path, packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "texts.txt").write_text(TEXTS)
    words = [*CAPTURE, "--corpus=texts.txt", "--store=old", "--model=llama"]
    with monkeypatch.context() as earlier:
        earlier.setattr("lpp.store.runs.write.PACKINGS", (packing,))
        assert CliRunner().invoke(main, words).exit_code == 0
    (run,) = open_store(place / "old").runs.values()
    before = stored_objects(run.path)
    assert stored_objects(runs(place)[0].path).keys() == before.keys()
    swap(on_disk(run.path) / "shards")
    flip(object_path(run.path / "shards/00002", "hidden.zarr/block.1/zarr.json"))
    done = CliRunner().invoke(main, ["repair", "old", "--model=llama"])
    assert done.exit_code == 0, done.output
    assert stored_objects(run.path) == before
    assert " ".join(done.stdout.split()).count("byte for byte what was committed") == 3


@pytest.mark.slow
def test_rows_packed_by_another_zstd_are_not_called_different(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = runs(place)
    flip(object_path(run.path / "shards/00001", "hidden.zarr/block.1/c/0/0"))
    with monkeypatch.context() as newer:
        newer.setattr("lpp.store.arrays.metadata.ZSTD_VERSION", "99.0.0")
        done = repair(run.id, "--model=llama")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "cannot be compared" in said
    assert "not byte for byte" not in said
    assert open_store(place / "lpp").runs[run.id].verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("remove", [shutil.rmtree, lambda shard: (shard / "COMMIT.json").unlink()])
def test_shards_that_are_not_there_wait_for_a_word(
    place: Path, remove: Callable[[Path], object]
) -> None:
    run, _ = runs(place)
    before = stored_objects(run.path)
    remove(on_disk(run.path) / "shards/00002")
    flip(object_path(run.path / "shards/00000", "tokens.arrow"))
    done = repair(run.id, "--model=llama")
    assert done.exit_code == 0, done.output
    assert "1 shards are missing" in " ".join(done.stdout.split())
    assert open_store(place / "lpp").runs[run.id].missing_shards == (2,)
    done = repair(run.id, "--model=llama", "--missing")
    assert done.exit_code == 0, done.output
    assert "shard 00002: was missing; computed again" in done.stdout
    assert stored_objects(run.path) == before


def test_another_model_is_refused_with_what_differs_and_nothing_moves(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    run, _ = runs(place)
    flip(object_path(run.path / "shards/00001", "tokens.arrow"))
    before = stored_objects(run.path)
    weights = load_file("other/model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, "other/model.safetensors", metadata={"format": "pt"})
    done = repair(run.id, "--model=other")
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    assert said.count(", not ") == 2  # the weights, and nothing else
    assert stored_objects(run.path) == before


def test_a_plan_of_other_releases_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = runs(place)
    flip(object_path(run.path / "shards/00001", "tokens.arrow"))
    monkeypatch.setattr("lpp.capture.backends.torch_backend.version", lambda name: "0.0.1")
    done = repair(run.id, "--model=llama")
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    for name in ("lpp-engine", "torch", "transformers"):
        assert f"compute.versions.{name}: '0.0.1', not" in said


def test_a_model_that_nobody_names_is_asked_for(place: Path) -> None:
    run, _ = runs(place)
    flip(object_path(run.path / "shards/00001", "tokens.arrow"))
    done = repair()
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    assert "--model PATH" in said
    assert "nowhere" in repair("nowhere").stderr


@pytest.mark.parametrize("key", ["plan.json", "prompts.arrow", "COMMIT.json"])
def test_what_a_run_says_of_itself_is_written_again_by_its_command(place: Path, key: str) -> None:
    run, _ = runs(place)
    before = stored_objects(run.path)
    bad = object_path(run.path / "shards/00001", "tokens.arrow")
    flip(bad)
    flip(on_disk(run.path) / key if key == "COMMIT.json" else object_path(run.path, key))
    damaged = stored_objects(run.path)
    done = repair(run.id, "--model=llama")
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    assert "repeat the `lpp-capture run` command that made" in said
    assert "remove" not in said
    assert key in said
    assert stored_objects(run.path) == damaged
    (place / "texts.txt").write_text(TEXTS)
    words = [*CAPTURE, "--corpus=texts.txt", "--store=lpp", "--model=llama"]
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0, again.output
    whole = {name: data for name, data in before.items() if "shards/00001" not in name}
    assert whole.items() <= stored_objects(run.path).items()
    assert repair(run.id, "--model=llama").exit_code == 0
    assert stored_objects(run.path) == before
    assert left_behind(run.path) == []


def test_a_run_that_lost_its_record_is_named_and_its_shards_are_not_computed_again(
    place: Path,
) -> None:
    run, twin = runs(place)
    before = stored_objects(run.path)
    (on_disk(run.path) / "COMMIT.json").unlink()
    done = repair()
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    assert f"runs/{run.id}: not a committed run" in said
    assert "repeat the `lpp-capture run` command that made it" in said
    (place / "texts.txt").write_text(TEXTS)
    words = [*CAPTURE, "--corpus=texts.txt", "--store=lpp", "--model=llama"]
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0, again.output
    assert stored_objects(run.path) == before
    assert repair().exit_code == 0
    assert twin.id in open_store(place / "lpp").runs


def test_of_two_repairs_at_once_both_find_the_run_whole(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = runs(place)
    before = stored_objects(run.path)
    flip(object_path(on_disk(run.path) / "shards" / "00001", "hidden.zarr/final/c/0/0"))
    encoder, told = "lpp.store.runs.write.encode_table", []

    def repaired_meanwhile(table: pa.Table) -> bytes:
        monkeypatch.setattr(encoder, encode_table)
        told.append(repair_run(run, look_at(run)[0], RepairOptions(model="llama")))
        return encode_table(table)

    monkeypatch.setattr(encoder, repaired_meanwhile)
    done = repair(run.id, "--model=llama")
    assert [one.whole for one in told] == [True]
    assert done.exit_code == 0, done.output
    assert "1 of 1 runs are whole" in done.stdout
    assert stored_objects(run.path) == before


def test_strangers_and_newer_shards_are_left_alone(place: Path) -> None:
    run, _ = runs(place)
    shards = on_disk(run.path) / "shards"
    (shards / "00099").mkdir()
    record = shards / "00001/COMMIT.json"
    document = {**json.loads(record.read_text()), "format": 99}
    record.write_bytes(seal(document))
    before = stored_objects(run.path)
    done = repair(run.id, "--model=llama")
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    assert "shards/00099: not a shard of the plan" in said
    assert "store format 99" in said
    assert stored_objects(run.path) == before


@pytest.mark.parametrize("after", [0, 1])
def test_a_repair_that_fails_leaves_what_was_there(
    place: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The disk is full when the new record is put: where none is yet, or in place of the old."""
    run, _ = runs(place)
    flip(object_path(run.path / "shards/00001", "tokens.arrow"))
    before = stored_objects(run.path)

    records: list[Path] = []

    def full_once(put: Callable[..., Any]) -> Callable[..., Any]:
        def putting(path: Path, target: Path, **options: bool) -> Any:
            if target.name == "COMMIT.json":
                records.append(target)
                if len(records) == after + 1:
                    raise OSError(28, "No space left on device")
            return put(path, target, **options)

        return putting

    monkeypatch.setattr(os, "link", full_once(os.link))  # a new record
    monkeypatch.setattr(Path, "replace", full_once(Path.replace))  # over a damaged one
    done = repair(run.id, "--model=llama")
    assert len(records) > after
    assert done.exit_code == 1
    assert stored_objects(run.path) == before
