"""Stores that the release before wrote: every command reads them, and goes on with them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from older_stores import as_format_1
from on_disk import on_disk
from polars.testing import assert_frame_equal
from stored import object_path, stored_objects

from lpp.analyze import scan_entropy, scan_spectra
from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main
from lpp.sql import connect
from lpp.store import Run, add_scores, open_store, read_scores
from lpp.store.format.keys import COMMIT_KEY
from lpp.store.format.tables import SCORES_SCHEMA
from lpp.store.scores.scores import score_sets


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join("the dog and the fox " * (2 + n % 6) for n in range(180)))
    return path


def capture(model: Path, corpus: Path, store: Path) -> Result:
    words = ["run", f"--model={model}", f"--corpus={corpus}", "--prompts=180", "--min-bytes=0"]
    words += ["--context=40", "--shard-mib=1", "--sites=embed,block.2,final"]
    return CliRunner().invoke(main, [*words, f"--store={store}"])


@pytest.fixture(scope="module")
def pair(
    tiny_folder: Callable[[str], Path],
    corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A store of format 1, and one of the same run as this release writes it."""
    place = tmp_path_factory.mktemp("older")
    done = capture(tiny_folder("gpt2"), corpus, place / "now")
    assert done.exit_code == 0, done.output
    add_scores(place / "now", "mine", scores(0.5), {"mine.csv": b"model,b\nm,0.5\n"})
    shutil.copytree(place / "now", place / "older")
    as_format_1(place / "older")
    return place / "older", place / "now"


@pytest.fixture
def older(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the older store, to work on."""
    return Path(shutil.copytree(pair[0], tmp_path / "s"))


def scores(value: float) -> pa.Table:
    row = {"model": "m", "benchmark": "b", "metric": "acc", "value": value}
    row |= {"run": None, "stderr": None, "n": None, "source": "mine", "kind": "csv"}
    return pa.Table.from_pylist([row], schema=SCORES_SCHEMA)


def only(store: Path) -> Run:
    (run,) = open_store(store).runs.values()
    return run


def formats(run: Run) -> list[int]:
    return [run.commit.format, *(shard.record.format for shard in run.shards)]


def test_it_is_what_the_release_before_wrote(pair: tuple[Path, Path]) -> None:
    older, now = pair
    run = only(older)
    assert run.plan.n_shards >= 3
    assert set(formats(run)) == {1}
    assert set(formats(only(now))) == {3}
    for directory in (run.path, *(shard.path for shard in run.shards)):
        record = (on_disk(directory) / COMMIT_KEY).read_bytes()
        assert b"\n" in record
        assert b"chunks" not in record
    assert (on_disk(run.shards[0].path) / "tokens.arrow").is_file()
    assert not [path for path in older.rglob("zarr.json") if b"dimension" in path.read_bytes()]
    assert run.verify() == []
    held, expected = (stored_objects(only(root).path) for root in (older, now))
    assert {key for key in expected if held.get(key) != expected[key]} == {
        key for key in expected if key.endswith((COMMIT_KEY, "plan.json"))
    } | {key for key in expected if key.count("/") == 4 and key.endswith("zarr.json")}


@pytest.mark.slow
def test_every_command_gives_what_it_gives_of_a_new_one(
    pair: tuple[Path, Path], older: Path, tmp_path: Path
) -> None:
    now = Path(shutil.copytree(pair[1], tmp_path / "now"))
    for root in (older, now):
        done = CliRunner().invoke(analyze, ["profile", str(root)])
        assert done.exit_code == 0, done.output
    assert_frame_equal(scan_spectra(older).collect(), scan_spectra(now).collect())
    assert_frame_equal(scan_entropy(older).collect(), scan_entropy(now).collect())
    for table in ("profiles", "spectra", "token_stats", "prompts"):
        found = []
        for root in (older, now):
            with connect(root) as connection:
                asked = connection.sql(f"SELECT * FROM {table} ORDER BY ALL")
                found.append(asked.to_arrow_table())
        assert found[0].num_rows
        assert found[0].equals(found[1]), table
    done = CliRunner().invoke(main, ["status", str(older)])
    assert "complete" in done.stdout
    done = CliRunner().invoke(analyze, ["verify", str(older)])
    assert done.exit_code == 0, done.output
    assert set(formats(only(older))) == {1}  # nothing of it was written anew


def test_scores_of_it_are_read_and_replaced(older: Path) -> None:
    (held,) = score_sets(older)
    assert (held.record.format, held.record.base) == (1, "")
    assert held.original() == {"mine.csv": b"model,b\nm,0.5\n"}
    assert read_scores(older).equals(scores(0.5))
    assert not add_scores(older, "mine", scores(0.5), {"mine.csv": b"model,b\nm,0.5\n"})
    assert add_scores(older, "mine", scores(0.75), {}, replace=True)
    (now,) = score_sets(older, superseded=True)
    assert now.record.format == 3
    assert read_scores(older).equals(scores(0.75))


def test_a_capture_goes_on_with_it(
    pair: tuple[Path, Path], older: Path, tiny_folder: Callable[[str], Path], corpus: Path
) -> None:
    _, now = pair
    run = only(older)
    shutil.rmtree(on_disk(run.shards[1].path))
    done = capture(tiny_folder("gpt2"), corpus, older)
    assert done.exit_code == 0, done.output
    run = only(older)
    assert run.missing_shards == ()
    assert formats(run) == [1, 1, 3, *[1] * (run.plan.n_shards - 2)]
    assert run.verify() == []
    assert_frame_equal(scan_spectra(older).collect(), scan_spectra(now).collect())
    shard = "shards/00001"
    held, expected = (stored_objects(only(root).path / shard) for root in (older, now))
    assert held == expected


@pytest.mark.parametrize("key", ["hidden.zarr/final/c/0/0", "hidden.zarr/final/zarr.json"])
def test_a_shard_of_it_is_repaired_bit_for_bit(
    pair: tuple[Path, Path], older: Path, tiny_folder: Callable[[str], Path], key: str
) -> None:
    _, now = pair
    run = only(older)
    path = object_path(run.shards[1].path, key)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert [problem.where for problem in run.verify()] == [f"shards/00001/{key}"]
    done = CliRunner().invoke(main, ["repair", str(older), f"--model={tiny_folder('gpt2')}"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "shard 00001: altered" not in said
    assert "computed again, byte for byte what was committed" in said
    assert "not byte for byte" not in said
    assert formats(only(older)).count(1) == run.plan.n_shards
    assert only(older).verify() == []
    shard = "shards/00001"
    held, expected = (stored_objects(only(root).path / shard) for root in (older, now))
    assert held == expected  # what lay there in the older layout is gone


def test_other_rows_than_were_committed_are_told(
    older: Path, tiny_folder: Callable[[str], Path]
) -> None:
    """Of a shard whose intact record lists other rows: as if another machine had computed them."""
    from sealed import reseal

    run = only(older)
    shard = on_disk(run.shards[1].path)
    path = shard / "hidden.zarr/final/c/0/0"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    version = run.commit.format

    def older_record(record: dict[str, object]) -> None:
        assert record["format"] == version

    reseal(shard, older_record)
    done = CliRunner().invoke(main, ["repair", str(older), f"--model={tiny_folder('gpt2')}"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "not byte for byte what was committed: hidden.zarr/final/c/0/0" in said
    assert " more" not in said
