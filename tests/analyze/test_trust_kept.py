"""A store whose kept numbers are not those of its rows: who finds it, and what computes again."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.analyze.drift.recompute import recompute
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.shared.kept_files import KeptFiles

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14)


@pytest.fixture
def root(make_run: MakeRun) -> Path:
    """A store of two runs, profiled and compared."""
    root = make_run(LENGTHS, model="tiny/base", sites=("block.1", "final")).root
    make_run(LENGTHS, model="tiny/tuned", seed=1, sites=("block.1", "final"))
    answer("profile", root, "--metrics", "anisotropy")
    answer("diff", root, "base", "tuned")
    return root


def run(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def answer(*words: object) -> str:
    found = run(*words)
    assert found.exit_code == 0, found.output
    return str(found.stdout)


def forge(root: Path, kind: str) -> int:
    """Zero the floats of every kept file of a kind, under the checksum that fits; how many."""
    files = sorted(root.glob(f"{ANALYSIS_KEY}/*/*/*/{kind}-*.arrow"))
    for file in files:
        with pa.OSFile(str(file)) as source:
            frame = pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source).read_all()))
        file.unlink()
        zeroed = frame.with_columns(pl.col(pl.Float64) * 0)
        zeroed = zeroed.with_columns(pl.col(pl.List(pl.Float64)).list.eval(pl.element() * 0))
        folder = file.parent.parent.relative_to(root / ANALYSIS_KEY)
        KeptFiles(root, str(folder)).put(file.parent.name, kind, zeroed)
    return len(files)


def test_what_is_kept_is_computed_again_with_the_same_bits(root: Path) -> None:
    found = recompute(str(root), 10**6)
    assert found.compared == found.n_kept > 500
    assert (found.other_digits, found.problems) == (0, [])
    assert recompute(str(root), 7).compared == 7
    shown = answer("verify", root, "--recompute", 5)
    assert "5 of" in shown
    assert "5 as kept" in shown


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spectra", "leading", "values"])
def test_forged_numbers_are_believed_until_they_are_computed_again(root: Path, kind: str) -> None:
    commands = (("profile", root, "--format", "csv"), ("diff", root, "base", "tuned"))
    right = [answer(*words) for words in commands]
    assert forge(root, kind) >= 2
    forged = [answer(*words) for words in commands]
    assert forged != right
    assert "every byte as committed" in answer("verify", root)
    found = run("verify", root, "--recompute", 10**6)
    assert found.exit_code == 1
    assert re.search(r"\b0( in all)? is kept", found.output)
    assert "--fresh" in found.output
    assert [answer(*words, "--fresh") for words in commands] == right
    assert [answer(*words) for words in commands] == right  # and what was kept is replaced
    metric = ("profile", root, "--metrics", "anisotropy", "--fresh")
    answer(*metric)
    answer(*commands[1], "--fresh")
    assert run("verify", root, "--recompute", 10**6).exit_code == 0


def test_cells_that_no_run_has_are_not_computed(root: Path) -> None:
    files = root.glob(f"{ANALYSIS_KEY}/*base*/*/final/values-*.arrow")
    (file,) = (path for path in files if "drift-" not in str(path))
    name = str(file.parent.parent.relative_to(root / ANALYSIS_KEY))
    with pa.OSFile(str(file)) as source:
        frame = pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source).read_all()))
    before = recompute(str(root), 1).n_kept
    strange = frame.head(3).with_columns(n_prompts=pl.Series([99, 12, -1], dtype=pl.Int32))
    strange = strange.with_columns(prefix=pl.Series([20, 99, 20], dtype=pl.Int32))
    KeptFiles(root, name).put("final", "values", strange)
    found = recompute(str(root), 10**6)
    assert (found.n_kept, found.problems) == (before, [])
