"""Any number of jobs gives the same bits, and several commands may keep numbers at once."""

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ended_owner import ended_name
from made_runs import MakeRun
from polars.testing import assert_frame_equal

from lpp.analyze import ProfileSettings, analyze
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.executor import LocalExecutor
from lpp.analyze.engine.workers import Workers
from lpp.analyze.runs.cells import Cell
from lpp.analyze.tables.database import read_table
from lpp.sql.schema import TABLES
from lpp.store import open_store
from lpp.store.shared import kept_files


@pytest.mark.slow
@pytest.mark.parametrize("dim", [6, 200], ids=["scatter", "Gram matrix"])
def test_the_same_bits_for_any_number_of_jobs(make_run: MakeRun, dim: int) -> None:
    made = make_run(dim=dim)
    selection = ProfileSettings(prompts=[4, 6], skip_first=[0, 1])

    def tables(jobs: int) -> Any:
        shutil.rmtree(made.root / "analysis", ignore_errors=True)
        executor = LocalExecutor(jobs)
        return analyze(
            made.root,
            replace(selection, metrics=["*"], errors="all"),
            executor=executor,
        )

    one = tables(1)
    assert one.spectra["effective_rank_stderr"].null_count() == 0
    for jobs in (2, 5):
        other = tables(jobs)
        for name in ("spectra", "metrics"):
            assert_frame_equal(getattr(other, name), getattr(one, name), check_exact=True)


def test_tasks_of_tasks_end_and_errors_are_those_of_the_first_that_is_waited_for() -> None:
    def tree(workers: Workers, depth: int) -> int:
        if depth == 0:
            return 1
        tasks = [workers.submit(tree, workers, depth - 1) for _ in range(2)]
        return sum(workers.results(tasks))

    for jobs in (1, 2, 3):
        with Workers(jobs) as workers:
            assert list(workers.map(lambda d: tree(workers, d), [3, 4, 5], 2)) == [8, 16, 32]
        with Workers(jobs) as workers, pytest.raises(ZeroDivisionError):
            list(workers.map(lambda n: 1 // n, [1, 0, 1], jobs))


def test_what_two_commands_keep_at_once_is_all_there(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run()
    run = open_store(made.root).runs[made.run_id]
    monkeypatch.setattr(kept_files, "MANY_FILES", 3)
    expected: dict[Any, Any] = {}
    Cache(made.root, run).keep_values("final", {(Cell(0, 10), "two_nn"): 1.0})
    expected[Cell(0, 10), "two_nn"] = 1.0
    (folder,) = made.root.glob("analysis/*/*/final")
    left = folder / ended_name("values-0.arrow")  # its writer was killed
    left.touch()
    for number in range(8):  # each opened before the other wrote, and more files than are kept
        pair = Cache(made.root, run), Cache(made.root, run)
        for place, cache in enumerate(pair):
            some = {(Cell(1 + number, 10 + place), "two_nn"): float(np.sqrt(number + place))}
            cache.keep_values("final", some)
            expected |= some
    assert Cache(made.root, run).values("final") == expected
    assert len(list(made.root.glob("analysis/*/*/final/values-*.arrow"))) <= 4
    assert not left.exists()


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
