"""Scores from a table: an Open LLM Leaderboard export, or a csv of one's own.

    leaderboard   columns `fullname` and any of IFEval, BBH, MMLU-PRO, ...   csv, parquet
    wide          `model`, then a column for each benchmark (and `<benchmark>_stderr`)
    long          `model`, `benchmark`, `metric`, `value` (and `stderr`, `n`)

An empty cell is a missing score, and so is one that a row is too short for; any other cell that is
no number is refused. Polars reads text. Arrow reads parquet: one changed byte can make Polars ask
for 2^61 bytes, and that ends the process.
"""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Final

import polars as pl
import polars.selectors as cs

from lpp.analyze.scores.score_table import MAX_ITEMS, SCORES, refuse
from lpp.store.errors import InputError, first_line
from lpp.store.terminal.escaping import escape

LEADERBOARD: Final = "leaderboard"
"""Kind of an export of the Open LLM Leaderboard, whose scores are percentages."""

EXPORTED: Final[tuple[str, ...]] = ("IFEval", "BBH", "MATH Lvl 5", "GPQA", "MUSR", "MMLU-PRO")
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

_UNREADABLE: Final = (
    *(OSError, ValueError, OverflowError),  # names may be no text
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException),  # the latter is no Exception
)
"""What a damaged parquet file raises besides Arrow's errors."""


def read_score_table(
    data: bytes, where: str, wanted: Callable[[str], bool] = lambda _: True
) -> pl.DataFrame:
    """`SCORES` of a csv, tsv or parquet file: every score whose benchmark is `wanted`.

    Raises InputError for a file in none of the three forms, and for cells that are no numbers.
    """
    cells = _parquet(data, where) if where.lower().endswith(".parquet") else _text(data, where)
    if "fullname" in cells.columns and any(name in cells.columns for name in EXPORTED):
        names = [name for name in EXPORTED if name in cells.columns and wanted(name)]
        return _wide(cells, "fullname", names, LEADERBOARD, where)
    plain = {name.casefold(): name for name in reversed(cells.columns)}
    model = next((plain[name] for name in _MODEL if name in plain), None)
    if model is None:
        raise _no_form(where, f"its columns are {', '.join(cells.columns) or 'none'}")
    if not all(name in plain for name in _LONG):
        other = {model, SIZE}
        names = [n for n in cells.columns if not (n in other or n.endswith(_STDERR)) and wanted(n)]
        return _wide(cells, model, names, "csv", where)
    columns = {
        name: _column(plain[name]) if name in plain else pl.lit(None, pl.String)
        for name in ("benchmark", "metric", *_NUMBERS)
    }
    rows = cells.select(where=_row(where), model=_column(model), **columns).with_columns(
        pl.col("model", "benchmark", "metric").cast(pl.String)
    )
    benchmarks = [name for name in rows["benchmark"].unique() if name is None or wanted(name)]
    rows = rows.filter(pl.col("benchmark").is_in(benchmarks, nulls_equal=True))
    _check(rows, pl.col("where"), ("model", "benchmark"), _NUMBERS)
    rows = rows.with_columns(
        kind=pl.lit("csv"),
        metric=pl.col("metric").fill_null(METRIC),
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
            model=_column(model).cast(pl.String),
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
                pl.when(_column(name).is_null()).then(
                    pl.format("{}: no {}", location, pl.lit(word))
                )
                for word, name in zip(("model", "benchmark"), names, strict=False)
            ),
            *(
                pl.when(_column(name).is_not_null(), _number(name).is_null()).then(
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
    """A column as finite numbers; null where it is none."""
    value = _column(name).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def _text(data: bytes, where: str) -> pl.DataFrame:
    """The cells of a csv or tsv file: text without white space around it, null where none is left.
    Rows without a cell are left out.
    """
    try:
        cells = pl.read_csv(
            data.decode("utf-8-sig").lstrip("\r\n").encode(),
            separator="\t" if PurePath(where).suffix.lower() == ".tsv" else ",",
            has_header=False,  # Polars renames the second of two equal names
            infer_schema=False,
            raise_if_empty=False,
        )
    except (UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        why = f"not readable as text ({first_line(error)}; fields with commas need quotes)"
        raise _no_form(where, why) from None
    cells = cells.with_columns(pl.all().str.strip_chars().replace("", None))
    cells = cells.filter(pl.any_horizontal(pl.all().is_not_null()))
    if cells.is_empty():
        return pl.DataFrame()
    names = [name or "" for name in cells.row(0)]
    twice = sorted({name for name in names if names.count(name) > 1})
    refuse([f"{where}: column {name!r} is there twice" for name in twice], "Leave one out.")
    cells.columns = names
    return cells.slice(1)


def _parquet(data: bytes, where: str) -> pl.DataFrame:
    """The numbers and texts of a parquet file, without lists and structures. NaN is null: pandas
    writes nothing so.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            size = file.metadata
            if size.num_rows * size.num_columns > MAX_CELLS:
                raise ValueError(f"{size.num_rows} rows of {size.num_columns} columns")
            table = file.read()
        table.validate(full=True)
        cells = pl.DataFrame(table).drop(cs.nested())
        return cells.with_columns(
            cs.float().fill_nan(None),
            (~cs.numeric()).cast(pl.String).str.strip_chars().replace("", None),
        )
    except (*_UNREADABLE, pa.ArrowException) as error:
        raise _no_form(where, f"not readable as parquet ({first_line(error)})") from None


def _no_form(where: str, why: str) -> InputError:
    return InputError(
        f"{where}: no table of scores: {why}. A table has a column `model` and a column for each "
        "benchmark; or `model`, `benchmark`, `metric`, `value`; or is an Open LLM Leaderboard "
        "export (`fullname`, `IFEval`, ...)."
    )
