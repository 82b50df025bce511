"""`lpp-analyze export --targets`: a Parquet file that trainers read, right and whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from on_disk import on_disk
from stored import object_path
from teachers import LENGTHS, VOCABULARY, reference_logprobs, write_teacher

from lpp.analyze.cli.command import main
from lpp.analyze.exports.targets import export_targets
from lpp.analyze.questions import TargetSettings
from lpp.store import Run, open_store
from lpp.store.errors import ConflictError, FormatError, InputError
from lpp.store.progress import Progress


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "store")


@pytest.fixture(scope="module")
def logprobs(run: Run) -> list[np.ndarray]:
    """Ln p of each prompt, (tokens, V)."""
    head = run.head()
    assert head is not None
    values = reference_logprobs(head, np.concatenate([*run.hidden("final")]))
    return np.split(values, np.cumsum(LENGTHS)[:-1])


def exported(run: Run, path: Path, *options: str) -> Any:
    command = ["export", str(on_disk(run.path).parent.parent), "-o", str(path), *options]
    return CliRunner().invoke(main, command)


def test_the_most_likely_tokens_of_each_prompt(
    run: Run, logprobs: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.analyze.exports.targets.GROUP_BYTES", 2000)
    path = tmp_path / "targets.parquet"
    result = exported(run, path, "--targets", "topk", "--k", "5")
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    assert pq.ParquetFile(path).num_row_groups > 2
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=tmp_path)
    prompts = run.prompts("token.loss_mask").to_pylist()
    for row, logp, prompt in zip(rows, logprobs, prompts, strict=True):
        assert row["prompt_id"] == prompt["prompt_id"]
        assert row["input_ids"] == prompt["token_ids"]
        assert row["loss_mask"] == prompt["token.loss_mask"]
        order = np.argsort(-logp, axis=1)[:, :5]
        assert row["target_token_ids"] == order.tolist()
        expected = np.take_along_axis(logp, order, axis=1)
        np.testing.assert_allclose(row["target_logprobs"], expected, atol=2e-5)
    about = json.loads(pq.read_schema(path).metadata[b"lpp"])
    wanted = {"run": run.id, "targets": "topk", "k": 5, "temperature": 1.0}
    assert about.items() >= wanted.items()


def test_samples_are_unbiased_and_do_not_depend_on_the_other_prompts(
    run: Run, logprobs: list[np.ndarray], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"samples": 4000, "temperature": 0.5, "seed": 3}
    export_targets(run, tmp_path / "all", "sampled", TargetSettings(**options))
    long = TargetSettings(**options, where="n_tokens = 7")
    assert export_targets(run, tmp_path / "long", "sampled", long) == 2
    rows = {row["prompt_id"]: row for row in pq.read_table(tmp_path / "all").to_pylist()}
    assert list(rows) == list(range(len(LENGTHS)))
    for row in pq.read_table(tmp_path / "long").to_pylist():
        assert row == rows[row["prompt_id"]]
        logp = 2 * logprobs[row["prompt_id"]]
        logp -= np.log(np.exp(logp).sum(axis=1, keepdims=True))
        for ids, drawn, values in zip(
            row["target_token_ids"], row["target_logprobs"], logp, strict=True
        ):
            shares = np.bincount(ids, minlength=VOCABULARY) / 4000
            assert np.abs(shares - np.exp(values)).max() < 5 * 0.5 / 4000**0.5
            np.testing.assert_allclose(drawn, values[ids], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say what to write: --targets topk or"),
        (("--targets", "topk", "--k", "54"), "from 1 to 53"),
        (("--targets", "topk", "--k", "5", "--temperature", "0"), "temperature=0.0"),
        (("--targets", "topk", "--where", "n_tokens > 7"), "no prompt is left to write"),
        (("--targets", "topk", "--where", "entropy > 7"), "no column entropy"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    run: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = exported(run, tmp_path / "targets.parquet", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("--targets", "topk", "--k", "3"), ("--to", "parquet")])
@pytest.mark.parametrize("damage", ["no record", "altered record", "altered rows", "cut rows"])
def test_a_damaged_shard_is_one_message(
    run: Run, tmp_path: Path, words: tuple[str, ...], damage: str
) -> None:
    store = shutil.copytree(on_disk(run.path).parents[1], tmp_path / "store")
    shard = store / "runs" / run.id / "shards" / "00001"
    rows = object_path(shard, "hidden.zarr/final/c/0/0")
    file = shard / "COMMIT.json" if "record" in damage else rows
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data[:-1] if damage == "cut rows" else data)
    if damage == "no record":
        file.unlink()
    done = CliRunner().invoke(main, ["export", str(store), *words, "-o", str(tmp_path / "x")])
    assert done.exit_code == 2, done.output
    assert run.id in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_gets_a_file_and_a_file_is_not_replaced(run: Run, tmp_path: Path) -> None:
    assert exported(run, tmp_path, "--targets", "topk", "--k", "5").exit_code == 0
    (path,) = tmp_path.iterdir()
    assert path.name == f"{run.id}-topk.parquet"
    with pytest.raises(InputError, match=r"exists\. Remove it"):
        export_targets(run, path, "topk")


class Overtaken(Progress):
    """Another process writes `path` while a command works."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def advance(self, amount: int = 1) -> None:
        self.path.write_text("theirs")


def test_what_another_process_wrote_meanwhile_stays(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "targets.parquet"
    with pytest.raises(ConflictError):
        export_targets(run, path, "topk", TargetSettings(k=5), progress=Overtaken(path))
    assert path.read_text() == "theirs"
    assert [*tmp_path.iterdir()] == [path]


def test_damage_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    run = write_teacher(tmp_path / "store")
    out = tmp_path / "targets.parquet"
    (record,) = (tmp_path / "store").glob("runs/*/shards/00001/COMMIT.json")
    (chunk,) = (tmp_path / "store").glob("runs/*/shards/00001/*/hidden.zarr/final/c/0/0")
    for path in (chunk, record):
        intact = path.read_bytes()
        path.write_bytes(intact[:20] + bytes([intact[20] ^ 1]) + intact[21:])
        again = open_store(tmp_path / "store").runs[run.id]
        with pytest.raises(FormatError, match="00001"):
            export_targets(again, out, "topk", TargetSettings(k=5))
        command = [
            "export",
            str(tmp_path / "store"),
            "--targets",
            "topk",
            "--k",
            "5",
            "-o",
            str(out),
        ]
        assert CliRunner().invoke(main, command).exit_code == 2
        path.write_bytes(intact)
    assert [*tmp_path.iterdir()] == [tmp_path / "store"]
