"""`lpp-analyze quickstart`: a store that comes with the package answers four questions."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal
from printed import differences

from docs import quickstart_store
from lpp.analyze.cli.command import main
from lpp.analyze.quickstart import packed
from lpp.store import open_store
from lpp.store.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
WHOLE = re.compile(r"\b\d+(?= equally| of 576| by effective|\))")
"""Measured numbers that a sentence rounds to whole ones: they are not compared."""

STATISTICS = ("entropy", "log_z", "next_logprob")


@pytest.mark.slow
def test_make_quickstart_store_makes_the_store_of_the_repository(tmp_path: Path) -> None:
    """In bfloat16 the kernels of another processor move rows by up to 3 % of their norm; rounding
    the weights to 4 bits moves them by 15 % and more.
    """
    packed.unpack(tmp_path / "kept")
    quickstart_store.capture(tmp_path / "anew", tmp_path / "sentences.jsonl")
    kept, anew = open_store(tmp_path / "kept"), open_store(tmp_path / "anew")
    by_name = {name: anew.runs[run] for run, name in anew.names.items()}  # ids are of a release
    assert by_name.keys() == {*kept.names.values()}
    for run in kept.runs.values():
        other = by_name[kept.names[run.id]]
        assert other.prompts().equals(run.prompts())
        tokens, others = (pl.DataFrame(r.tokens().to_table()) for r in (run, other))
        keys = ["prompt_id", "position", "token_id"]
        assert_frame_equal(tokens.select(keys), others.select(keys))
        pairs = {name: (tokens[name].to_numpy(), others[name].to_numpy()) for name in STATISTICS}
        pairs |= {site: (run.array(site)[:], other.array(site)[:]) for site in run.sites}
        for name, (rows, rows_anew) in pairs.items():
            a, b = (np.nan_to_num(values.astype(np.float32)) for values in (rows, rows_anew))
            assert np.linalg.norm(b - a) <= 0.05 * np.linalg.norm(a), name
    assert not list(tmp_path.glob("kept/heads")), "the unembedding takes 39 MB"
    assert packed.PACKED.stat().st_size < 4_000_000


def test_of_two_that_unpack_at_once_both_have_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    with tarfile.open(tmp_path / "store.tar", "w") as archive:
        archive.add(tmp_path / "runs", "runs")
    monkeypatch.setattr(packed, "PACKED", tmp_path / "store.tar")
    extract = tarfile.TarFile.extractall

    def meanwhile(*args: Any, **how: Any) -> None:
        extract(*args, **how)
        monkeypatch.setattr(tarfile.TarFile, "extractall", extract)
        packed.unpack(tmp_path / "x")

    monkeypatch.setattr(tarfile.TarFile, "extractall", meanwhile)
    packed.unpack(tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["runs"]
    (tmp_path / "link").symlink_to("nowhere")
    for there in ("store.tar", "runs", "link"):
        with pytest.raises(InputError, match="Name a new directory"):
            packed.unpack(tmp_path / there / "")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "store.tar", "x", "link"}


@pytest.mark.slow
def test_four_questions_have_answers_without_a_model(tmp_path: Path) -> None:
    store = tmp_path / "first look"
    asked = CliRunner().invoke(main, ["quickstart", "--store", str(store)])
    assert asked.exit_code == 0, asked.output
    for words in (
        "uses 1", "the most likely next", "predicts topic (statements or data)", "of 60 items",
        f"lpp-analyze profile '{store}'",
    ):  # fmt: skip
        assert words in " ".join(asked.stdout.split())
    shown = re.findall(
        r"^lpp-analyze \w+ quickstart.*\n```\n\n```text\n((?:.+\n)+?)```$", README, re.M
    )
    assert len(shown) == 3
    for answer in shown:
        assert not differences(*(WHOLE.sub("N", text) for text in (answer, asked.stdout)))
    assert all(len(line) <= 80 for line in asked.stdout.splitlines() if str(store) not in line)
    assert (store / "report.html").exists()
    assert len(open_store(store).runs) == 3
    verified = CliRunner().invoke(main, ["verify", str(store)])
    assert verified.exit_code == 0, verified.output
    again = CliRunner().invoke(main, ["quickstart", "--store", str(store)])
    assert again.stdout == asked.stdout


@pytest.mark.slow
def test_the_wheel_carries_it_in_six_megabytes(tmp_path: Path) -> None:
    for name in ("analyze", "capture", "namespace", "sql", "store"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "made"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "made").iterdir()
    assert wheel.stat().st_size <= 6_000_000
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), environment], check=True)
    code = "from lpp.analyze.quickstart import unpack; from pathlib import Path; unpack(Path('q'))"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(environment)}, check=True
    )
    assert len(open_store(tmp_path / "q").runs) == 3


def test_a_directory_with_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    asked = CliRunner().invoke(main, ["quickstart", "--store", str(tmp_path)])
    assert (asked.exit_code, [path.name for path in tmp_path.iterdir()]) == (2, ["notes.txt"])
