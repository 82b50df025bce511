"""`lpp-sql` as a whole process beside DuckDB in Python doing the same."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from lpp.store.format.keys import DATABASE_KEY

REPEATS = 15
QUERY = "SELECT run, entropy_floor FROM profiles ORDER BY entropy_floor"


def measure(root: Path) -> Iterator[Ratio]:
    """root: a store with its database built."""
    bare = (
        "import duckdb; "
        f"duckdb.connect({str(root / DATABASE_KEY)!r}, read_only=True).sql({QUERY!r}).show()"
    )
    ours = [str(Path(sys.executable).with_name("lpp-sql")), str(root), QUERY]
    yield ratio_of_times(
        "`lpp-sql`, simple query, whole process / bare `duckdb` in Python",
        timed_pairs(lambda: _run(ours), lambda: _run([sys.executable, "-c", bare]), REPEATS),
        bar=1.5,
    )


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
