"""Commands that keep numbers in one store at once: the database holds the rows of each."""

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_runs import MakeRun
from polars.testing import assert_frame_equal

from lpp.analyze.tables.database import read_table
from lpp.sql.schema import TABLES

COMMANDS = {
    ("profile", "--errors", "none"): ("site_profiles", "spectra", "entropy"),
    ("layers", "--errors", "none"): ("layers", "hourglass"),
    ("diff", "one", "two"): ("drift_sites", "drift_predictions"),
    ("diff", "two", "one"): (),
}
"""What is at work at once, and the tables that it fills."""


@pytest.mark.slow
def test_no_command_loses_the_rows_of_another(
    make_run: MakeRun,
    tmp_path: Path,
    run_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for number, name in enumerate(("a/one", "b/two")):
        root = make_run(model=name, seed=number).root
    alone = shutil.copytree(root, tmp_path / "alone")

    def ask(store: Path, words: tuple[str, ...]) -> None:
        done = run_command("lpp-analyze", words[0], store, *words[1:])
        assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        list(pool.map(lambda words: ask(root, words), COMMANDS))
    for words in COMMANDS:
        ask(alone, words)
    for name in sum(COMMANDS.values(), ()):
        together, expected = (
            read_table(store, name).sort(TABLES[name].key) for store in (root, alone)
        )
        assert len(expected) > 0
        assert_frame_equal(together, expected)
