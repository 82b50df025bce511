"""Scores from a table: an Open LLM Leaderboard export, or a csv of one's own.

    leaderboard   columns `fullname` and any of IFEval, BBH, MMLU-PRO, ...   csv, parquet
    wide          `model`, then a column for each benchmark (and `<benchmark>_stderr`)
    long          `model`, `benchmark`, `metric`, `value` (and `stderr`, `n`)

An empty cell is a missing score; any other cell that is no number is refused. Files are split into
cells of text outside Polars, whose reader fills rows that are too short, and whose parquet reader
ends the process at some damaged files; Polars reads the cells.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Final, Literal

import polars as pl
import polars.selectors as cs

from lpp.analyze.scores.score_table import MAX_ITEMS, SCORES, refuse
from lpp.store.errors import ErrorKind, InputError
from lpp.store.terminal.escaping import escape

KIND: Final = "leaderboard"
"""Kind of an export of the Open LLM Leaderboard, whose scores are percentages."""

LEADERBOARD: Final[tuple[str, ...]] = ("IFEval", "BBH", "MATH Lvl 5", "GPQA", "MUSR", "MMLU-PRO")
"""Columns of scores in an export of the Open LLM Leaderboard, version 2."""

SIZE: Final = "#Params (B)"
"""Its column with the size of a model, in billions of parameters."""

MAX_CELLS: Final = 10_000_000
"""Most cells of a parquet file: a few bytes may stand for any number of equal rows."""

METRIC: Final = "score"
"""Metric of a table that names none: the source alone says how its scores were made."""

_MODEL: Final = ("model", "model_id", "fullname")
_LONG: Final = ("benchmark", "value")
_STDERR: Final = "_stderr"
_NUMBERS: Final = ("value", "stderr", "n")


def read_score_table(
    data: bytes, where: str, wanted: Callable[[str], bool] = lambda _: True
) -> pl.DataFrame:
    """`SCORES` of a csv, tsv or parquet file: every score whose benchmark is `wanted`.

    Raises InputError for a file in none of the three forms, and for cells that are no numbers.
    """
    cells = _parquet(data, where) if where.lower().endswith(".parquet") else _text(data, where)
    if "fullname" in cells.columns and any(name in cells.columns for name in LEADERBOARD):
        names = [name for name in LEADERBOARD if name in cells.columns and wanted(name)]
        return _wide(cells, "fullname", names, KIND, where)
    plain = {name.casefold(): name for name in reversed(cells.columns)}
    model = next((plain[name] for name in _MODEL if name in plain), None)
    if model is None:
        raise _no_form(where, f"its columns are {', '.join(cells.columns) or 'none'}")
    if not all(name in plain for name in _LONG):
        other = {model, SIZE}
        names = [n for n in cells.columns if not (n in other or n.endswith(_STDERR)) and wanted(n)]
        return _wide(cells, model, names, "csv", where)
    columns = {
        name: pl.col(plain[name]) if name in plain else pl.lit("")
        for name in ("benchmark", "metric", *_NUMBERS)
    }
    rows = cells.select(where=_row(where), model=model, **columns)
    benchmarks = [name for name in rows["benchmark"].unique() if name == "" or wanted(name)]
    rows = rows.filter(pl.col("benchmark").is_in(benchmarks))
    _check(rows, pl.col("where"), ("model", "benchmark"), _NUMBERS)
    rows = rows.with_columns(
        kind=pl.lit("csv"),
        metric=pl.when(pl.col("metric") == "").then(pl.lit(METRIC)).otherwise("metric"),
        **{name: _number(name) for name in _NUMBERS},
    )
    beyond = rows.filter(~pl.col("n").is_between(0, MAX_ITEMS - 1)).select("where", "n").rows()
    refuse([f"{location}: {n:.15g} items" for location, n in beyond], "Correct the file.")
    rows = rows.with_columns(pl.col("n").cast(pl.Int64))
    return rows.match_to_schema(SCORES, missing_columns="insert")


def _wide(
    cells: pl.DataFrame, model: str, names: Sequence[str], kind: str, where: str
) -> pl.DataFrame:
    """`SCORES` of a table with a column for each of the benchmarks `names`."""
    if not names:
        raise _no_form(where, "no column of it is a benchmark that is asked for")
    errors = [name + _STDERR for name in names if name + _STDERR in cells.columns]
    _check(cells, _row(where), (model,), [*names, *errors])
    parts = [
        cells.select(
            row=pl.int_range(pl.len()),
            kind=pl.lit(kind),
            model=model,
            benchmark=pl.lit(name),
            metric=pl.lit(METRIC),
            value=_number(name),
            where=_row(where),
            **{
                column: _number(other)
                for column, other in {"stderr": name + _STDERR, "size_b": SIZE}.items()
                if other in cells.columns
            },
        )
        for name in names
    ]
    rows = pl.concat(parts, how="diagonal").sort("row", maintain_order=True).drop("row")
    return rows.match_to_schema(SCORES, missing_columns="insert")


def _row(where: str) -> pl.Expr:
    """The place of each row in the file."""
    return pl.format("{}, row {}", pl.lit(escape(where, keep="")), pl.int_range(1, pl.len() + 1))


def _check(
    cells: pl.DataFrame, location: pl.Expr, names: Sequence[str], numbers: Sequence[str]
) -> None:
    """InputError that lists the empty cells of `names`, and those of `numbers` that are none."""
    problems = cells.select(
        pl.concat_list(
            *(
                pl.when(_column(name) == "").then(pl.format("{}: no {}", location, pl.lit(word)))
                for word, name in zip(("model", "benchmark"), names, strict=False)
            ),
            *(
                pl.when(_column(name) != "", _number(name).is_null()).then(
                    pl.format("{}, {}: '{}' is not a number", location, pl.lit(name), _column(name))
                )
                for name in numbers
            ),
        )
    )
    refuse(
        problems.to_series().explode().drop_nulls().to_list(),
        "A score is a plain number with a decimal point; an empty cell is a missing one. "
        "Correct the file, or take only some of its columns: --benchmark NAME,...",
    )


def _column(name: str) -> pl.Expr:
    """The column of this name; `pl.col` takes `*` and `^...$` for patterns."""
    return cs.by_name(name).as_expr()


def _number(name: str) -> pl.Expr:
    """A column of text as finite numbers; null where it is none."""
    value = _column(name).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def _text(data: bytes, where: str) -> pl.DataFrame:
    """The cells of a csv or tsv file, as text without white space around it."""
    delimiter = "\t" if PurePath(where).suffix.lower() == ".tsv" else ","
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_form(where, f"not readable as text ({error})") from None
    header, *rows = [[cell.strip() for cell in line] for line in lines if any(line)] or [[]]
    refuse(
        [
            f"{where}, row {index}: {len(row)} cells, the header has {len(header)}"
            for index, row in enumerate(rows, start=1)
            if len(row) != len(header)
        ],
        "Fields with commas need quotes.",
    )
    return _frame(header, rows, "row", where)


def _parquet(data: bytes, where: str) -> pl.DataFrame:
    """The cells of a parquet file as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            size = file.metadata
            if size.num_rows * size.num_columns > MAX_CELLS:
                raise ValueError(f"{size.num_rows} rows of {size.num_columns} columns")
            table = file.read()
        table.validate(full=True)
        columns = [list(map(_cell, column.to_pylist())) for column in table.columns]
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # names may be no text
        raise _no_form(where, f"not readable as parquet ({error})") from None
    return _frame([name.strip() for name in table.column_names], columns, "col", where)


def _cell(value: object) -> str:
    """A value of a parquet file as text; "" for null, and for NaN: how pandas writes nothing."""
    absent = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if absent else str(value).strip()


def _frame(
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    orient: Literal["row", "col"],
    where: str,
) -> pl.DataFrame:
    """Cells as a table. InputError where two columns have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    refuse([f"{where}: column {name!r} is there twice" for name in twice], "Leave one out.")
    return pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String), orient=orient)


def _no_form(where: str, why: str) -> InputError:
    return InputError(
        f"{where}: no table of scores: {why}. A table has a column `model` and a column for each "
        "benchmark; or `model`, `benchmark`, `metric`, `value`; or is an Open LLM Leaderboard "
        "export (`fullname`, `IFEval`, ...).",
        kind=ErrorKind.INVALID_VALUE,
    )
