"""One side of the comparison: runs every command in a fork of one process that has imported lpp.

python side.py COMMANDS LPP [PATTERN...], in a folder with the stores. LPP is the folder that `lpp`
must come from. What commands print goes into out/, what they write stays where they write it.
"""

import importlib
import os
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

PROGRAMS: Final = {
    "lpp-analyze": "lpp.analyze.cli.command",
    "lpp-capture": "lpp.capture.cli.command",
    "lpp-sql": "lpp.sql.cli",
}
IN_SHORT_AND_WHOLE: Final = ("text", "md")
"""Formats that --all changes."""


def expanded(line: str, mains: Mapping[str, Any]) -> Iterator[str]:
    """The command lines that `line` of commands.txt stands for."""
    if line.startswith("="):
        yield line.removeprefix("=").strip()
        return
    program, *words = shlex.split(line)
    command, name = mains[program], program
    while words and words[0] in getattr(command, "commands", ()):
        name = f"{name} {words[0]}"
        command = command.commands[words.pop(0)]
    options = {name: option for option in command.params for name in option.opts}
    yield f"{name} --help"
    if "--format" not in options:
        yield line
        return
    for form in options["--format"].type.choices:
        if program == "lpp-sql" and form == "parquet":
            continue  # a table of the database: tables/ has them all
        for whole in ("", " --all") if "--all" in options and form in IN_SHORT_AND_WHOLE else ("",):
            yield f"{line} --format {form}{whole}"
    if "--output" in options and "picture" in options["--output"].help:
        yield f"{line} --output pictures/{file_name(line)}.svg"


def file_name(line: str) -> str:
    """A name for what a command line prints."""
    return re.sub(r"[^\w.,=-]+", "_", line.removeprefix("lpp-"))[:200]


def in_a_fork(out: str, run: Any) -> None:
    """`run()` in a fork. It prints into `out` and `out.stderr`, which ends with its exit code."""
    process = os.fork()
    if process == 0:
        code: Any = 1
        try:
            for number, name in ((0, os.devnull), (1, out), (2, f"{out}.stderr")):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            code = run()
        except SystemExit as end:
            code = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(2, f"exit code {code or 0}\n".encode())
            os._exit(0)
    os.waitpid(process, 0)


def write_tables(store: str) -> None:
    """Every table of the store's database as CSV, in an order that no change of code changes."""
    import duckdb

    with duckdb.connect(f"{store}/profiles.duckdb", read_only=True) as database:
        for (table,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            target = f"tables/{store} {table}.csv"
            database.execute(f"COPY (FROM \"{table}\" ORDER BY ALL) TO '{target}' (HEADER)")


def main(commands: Path, home: str, patterns: Sequence[str]) -> None:
    """Run the lines of `commands` whose command matches a pattern, if there are any."""
    mains = {name: __import__(module, fromlist=["main"]).main for name, module in PROGRAMS.items()}
    import lpp.analyze
    import lpp.sql
    import lpp.store

    # All that commands import when they run. Threads, which a computation starts, survive no fork.
    for package in (lpp.store, lpp.sql, lpp.analyze):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            with suppress(Exception):  # what a package that is not installed would need
                importlib.import_module(found.name)
    with suppress(ImportError, AttributeError):
        importlib.import_module(
            "lpp.analyze.charts.export"
        ).chart_script()  # seconds, for each page
    assert str(lpp.store.__file__).startswith(home), f"{lpp.store.__file__} is not in {home}"
    for folder in ("out", "pictures", "tables"):
        os.mkdir(folder)
    ran = set()
    for line in commands.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        for words in expanded(line, mains):
            if words in ran or (
                patterns
                and not any(fnmatch(file_name(words), f"*{pattern}*") for pattern in patterns)
            ):
                continue
            ran.add(words)
            program, *arguments = shlex.split(words)
            in_a_fork(
                f"out/{file_name(words)}",
                lambda program=program, arguments=arguments: mains[program](
                    arguments, prog_name=program
                ),
            )
            print(words, flush=True)
    for store in sorted(path.parent.name for path in Path().glob("*/profiles.duckdb")):
        in_a_fork(f"out/tables of {store}", lambda store=store: write_tables(store))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    os._exit(0)  # threads that imports started may not end
