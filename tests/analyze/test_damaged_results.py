"""What commands keep, damaged or crafted: a message, or the same numbers computed again."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.sql.cli.command import main as sql
from lpp.store.format.keys import ANALYSIS_KEY, DATABASE_KEY
from lpp.store.shared.kept_files import KeptFiles

LENGTHS = (12, 7, 20, 20, 3, 15)


def profile(root: Path) -> str:
    found = CliRunner().invoke(main, ["profile", str(root), "--format", "csv"])
    assert found.exit_code == 0, found.output
    return found.stdout


def changed(frame: pl.DataFrame, **columns: pl.Expr) -> pa.Table:
    return frame.with_columns(**columns).to_arrow(compat_level=pl.CompatLevel.oldest())


CRAFTED: dict[str, Callable[[pl.DataFrame], pa.Table]] = {
    "a type at which Polars panics": lambda frame: changed(frame).set_column(
        0, "n_prompts", pa.array([1] * len(frame), pa.decimal256(70, 0))
    ),
    "a list of no length": lambda frame: changed(frame).set_column(
        0, "n_prompts", pa.array([[]] * len(frame), pa.list_(pa.float64(), 0))
    ),
    "null": lambda frame: changed(frame, n=pl.lit(None, pl.Int64), total=pl.lit(None, pl.Float64)),
    "no eigenvalues": lambda frame: changed(frame, eigenvalues=pl.col("eigenvalues").list.head(0)),
    "other eigenvalues": lambda frame: changed(frame, eigenvalues=pl.col("variances").list.head(2)),
    "other variances": lambda frame: changed(frame, variances=pl.col("variances").list.head(1)),
    "negative count": lambda frame: changed(frame, n=pl.lit(-3, pl.Int64)),
    "a list of null": lambda frame: changed(frame, variances=pl.lit(None, pl.List(pl.Float64))),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", CRAFTED)
def test_a_crafted_file_is_computed_again(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    root = make_run(LENGTHS, sites=("final",)).root
    right = profile(root)
    for estimates in root.glob(f"{ANALYSIS_KEY}/*/*/final/estimates-*"):
        estimates.unlink()  # read in place of the spectra
    (file,) = root.glob(f"{ANALYSIS_KEY}/*/*/final/spectra-*.arrow")
    with pa.OSFile(str(file)) as source:
        frame = pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source).read_all()))
    table, sink = CRAFTED[how](frame), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    file.unlink()
    folder = str(file.parent.parent.relative_to(root / ANALYSIS_KEY))
    data = bytes(sink.getvalue())
    (
        root / ANALYSIS_KEY / folder / KeptFiles(root, folder).name("final", "spectra", data)
    ).write_bytes(data)
    assert profile(root) == right


def test_a_damaged_file_is_not_copied_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptFiles(tmp_path, "run/shards")
    kept.put("final", "values", pl.DataFrame({"n": [1]}))
    kept.put("final", "values", pl.DataFrame({"n": [2]}))
    whole, damaged = sorted((tmp_path / ANALYSIS_KEY).rglob("*.arrow"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert [*kept.files("final")] == [("values", whole.read_bytes())]
    assert [damaged.name in line for line in caplog.messages] == [True]


@pytest.mark.slow
def test_a_flipped_bit_of_the_database_is_a_message_or_harmless(
    make_run: MakeRun, tmp_path: Path
) -> None:
    root = make_run(LENGTHS, sites=("final",)).root
    right = profile(root)
    database = root / DATABASE_KEY
    whole = database.read_bytes()
    page = tmp_path / "report.md"
    query = [str(root), "--run", "profiles", "--format", "csv"]
    commands = [(main, ["report", str(root), "-o", str(page)]), (sql, query)]
    answers = [_answer(*words, page)[1] for words in commands]
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    rng = np.random.default_rng(1)
    refused = 0
    for place in rng.choice(used, 40).tolist():
        altered = bytearray(whole)
        altered[place] ^= 1 << int(rng.integers(8))
        database.write_bytes(bytes(altered))
        for words, answer in zip(commands, answers, strict=True):
            code, said = _answer(*words, page)
            if code == 0:
                assert said == answer
            else:
                refused += 1
                assert code == 2, said
                assert "lpp-analyze profile" in said
    assert refused > 10
    assert profile(root) == right  # it is built again
    assert _answer(*commands[1], page) == (0, answers[1])
    shutil.rmtree(root / ANALYSIS_KEY)


def _answer(command: object, words: list[str], page: Path) -> tuple[int, str]:
    """Exit code, and what the command answered or said."""
    page.unlink(missing_ok=True)
    found = CliRunner().invoke(command, words)  # type: ignore[arg-type]
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    if found.exit_code:
        return found.exit_code, found.output
    text = page.read_text("utf-8") if page.exists() else found.stdout
    return 0, re.sub("SHA-256 `[0-9a-f]+`", "", text)  # of the database itself
