"""`python -m benchmarks.same_answers OLD NEW STORE ...`: do two releases give the same answers?

OLD and NEW are folders of programs, such as `.venv/bin` of two clones. Each release profiles,
compares and correlates copies of the stores, with nothing kept from before. Then every table of the
database is compared row by row, and every JSON document value by value. Numbers are equal if their
bits are. The text of terminals, Markdown and pages is not compared.
"""

import json
import math
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
import duckdb

from lpp.store.scores.items import read_items

COMPUTED: Final = ("analysis", "profiles.duckdb")
"""What commands add to a store."""

NOT_COMPARED: Final = frozenset({"seconds", "elapsed", "version", "now"})
"""Fields of documents that depend on the time or on the release."""


@dataclass
class Answers:
    """What one release says of one store."""

    codes: dict[str, int] = field(default_factory=dict)
    """Exit code of each command."""
    documents: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def commands(store: Path) -> Iterator[tuple[str, ...]]:
    """The commands that fill the database of a store, each with the most that it computes."""
    yield ("lpp-analyze", "profile", "STORE", "--metrics", "*", "--skip-first", "0,2")
    yield ("lpp-analyze", "layers", "STORE", "--skip-first", "2", "--errors", "all")
    yield ("lpp-analyze", "cka", "STORE", "--all-pairs")
    runs = sorted(path.name for path in (store / "runs").iterdir() if path.is_dir())
    for a, b in pairwise(runs):
        yield ("lpp-analyze", "diff", "STORE", a, b, "--errors", "all")
        yield ("lpp-analyze", "diff", "STORE", a, b, "--skip-first", "2")
    items = read_items(str(store)).select(["run", "task"]).to_pylist()
    for run, task in sorted({(one["run"], one["task"]) for one in items if one["run"]}):
        yield ("lpp-analyze", "items", "STORE", run, "--task", task)
    yield ("lpp-analyze", "correlate", "STORE")
    yield ("lpp-capture", "status", "STORE")


def answers(programs: Path, store: Path) -> Answers:
    """Ask one release everything, of a copy of `store`."""
    found = Answers()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "store"
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns(*COMPUTED))
        for words in commands(copy):
            name = " ".join(words)
            filled = [str(copy) if word == "STORE" else word for word in words]
            done = _run(programs, [*filled, "--format", "json"])
            if done.returncode == 2 and "json" in done.stderr:  # cka has no JSON
                done = _run(programs, filled)
            found.codes[name] = done.returncode
            if done.stdout.startswith(("{", "[")):
                found.documents[name] = json.loads(done.stdout.replace(str(copy), "STORE"))
        found.tables = tables(copy / "profiles.duckdb")
    return found


def _run(programs: Path, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    words = [str(programs / words[0]), *words[1:]]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def tables(database: Path) -> dict[str, list[dict[str, Any]]]:
    """Every table of a database, rows in order of all columns."""
    if not database.exists():
        return {}
    with duckdb.connect(str(database), read_only=True) as connection:
        names = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        found = {}
        for (name,) in names:
            rows = connection.execute(f'SELECT * FROM "{name}" ORDER BY ALL')
            columns = [column[0] for column in rows.description or ()]
            found[name] = [dict(zip(columns, row, strict=True)) for row in rows.fetchall()]
        return found


# comparison


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(where, what differs) of two documents or tables; where without indices of rows."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if key in NOT_COMPARED:
                continue
            if key not in old or key not in new:
                yield f"{where}.{key}", "only in the new" if key in new else "only in the old"
            else:
                yield from differences(old[key], new[key], f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield where, f"{len(old)} rows in the old, {len(new)} in the new"
        for a, b in zip(old, new, strict=False):
            yield from differences(a, b, where)
    elif not _equal(old, new):
        yield where, _gap(old, new)


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old):
        return math.isnan(new)
    return bool(old == new)


def _gap(old: Any, new: Any) -> str:
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    if numbers and not isinstance(old, bool) and math.isfinite(old) and math.isfinite(new):
        digits = math.ceil(math.log10(abs(new - old) / max(abs(old), abs(new))))
        return f"numbers, by less than 1e{digits} of their size"
    return f"{str(old)[:40]!r} in the old, {str(new)[:40]!r} in the new"


@click.command()
@click.argument("old", type=click.Path(exists=True, path_type=Path))
@click.argument("new", type=click.Path(exists=True, path_type=Path))
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(old: Path, new: Path, stores: Sequence[Path]) -> None:
    """Compare the answers of the programs in OLD and NEW for each of STORES."""
    different = 0
    for store in stores:
        before, after = answers(old, store), answers(new, store)
        rows = sum(map(len, before.tables.values()))
        click.echo(
            f"{store}: {len(before.codes)} commands, {len(before.documents)} documents, "
            f"{len(before.tables)} tables of {rows:,} rows"
        )
        found: Counter[tuple[str, str]] = Counter()
        for part in ("codes", "tables", "documents"):
            found.update(differences(getattr(before, part), getattr(after, part), part))
        for (where, what), times in found.most_common():
            click.echo(f"  {where}: {what}" + (f" ({times} times)" if times > 1 else ""))
        different += len(found)
    click.echo("all answers are equal" if not different else f"{different} kinds of differences")
    raise SystemExit(int(different > 0))


if __name__ == "__main__":
    main()
