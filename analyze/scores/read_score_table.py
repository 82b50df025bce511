"""Scores from a table: an Open LLM Leaderboard export, or a csv of one's own.

    leaderboard   columns `fullname` and any of IFEval, BBH, MMLU-PRO, ...   csv, parquet
    wide          `model`, then a column for each benchmark (and `<benchmark>_stderr`)
    long          `model`, `benchmark`, `metric`, `value` (and `stderr`, `n`)

An empty cell is a missing score and is told; any other cell that is no number is refused.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from lpp.analyze.scores.score_rows import Missing, Score, ScoreFile, number, refuse
from lpp.store.errors import ErrorKind, InputError

KIND: Final = "leaderboard"
"""Of an export of the Open LLM Leaderboard, whose scores are percentages."""

LEADERBOARD: Final[tuple[str, ...]] = ("IFEval", "BBH", "MATH Lvl 5", "GPQA", "MUSR", "MMLU-PRO")
"""Columns of scores in an export of the Open LLM Leaderboard, version 2."""

SIZE: Final = "#Params (B)"
"""Its column with the size of a model, in billions of parameters."""

MAX_CELLS: Final = 10_000_000
"""Of a parquet file: a few bytes may stand for any number of equal rows."""

METRIC: Final = "score"
"""Metric of a table that names none: the source alone says how its scores were made."""

_MODEL: Final = ("model", "model_id", "fullname")
_LONG: Final = ("benchmark", "value")
_STDERR: Final = "_stderr"

Row = Mapping[str, Any]
Wanted = Callable[[str], bool]


def read_score_table(data: bytes, where: str, wanted: Wanted = lambda _: True) -> ScoreFile:
    """Every score of a csv, tsv or parquet file whose benchmark is `wanted`.

    Raises InputError for a file in none of the three forms, and for cells that are no numbers.
    """
    header, rows = _read(data, where)
    if "fullname" in header and any(name in header for name in LEADERBOARD):
        columns = [name for name in LEADERBOARD if name in header and wanted(name)]
        return _wide(rows, "fullname", columns, kind=KIND, where=where)
    plain = {name.strip().casefold(): name for name in reversed(header)}
    model = next((plain[name] for name in _MODEL if name in plain), None)
    if model is None:
        raise _no_form(where, f"its columns are {', '.join(header) or 'none'}")
    if all(name in plain for name in _LONG):
        return _long(rows, model, plain, where, wanted)
    columns = [
        name
        for name in header
        if name not in (model, SIZE) and not name.endswith(_STDERR) and wanted(name)
    ]
    return _wide(rows, model, columns, kind="csv", where=where)


def _wide(
    rows: Sequence[Row], model: str, columns: Sequence[str], *, kind: str, where: str
) -> ScoreFile:
    if not columns:
        raise _no_form(where, "no column of it is a benchmark that is asked for")
    scores: list[Score] = []
    missing: list[Missing] = []
    problems: list[str] = []
    sizes = {}
    for place, row, name in _named(rows, model, where, problems):
        if (size := number(row.get(SIZE))) is not None:
            sizes[name] = size
        for column in columns:
            if _empty(row[column]):
                missing.append(Missing(model=name, benchmark=column.strip(), where=place))
                continue
            value = _value(row[column], f"{place}, {column}", problems)
            stderr = row.get(f"{column}{_STDERR}")
            scores.append(
                Score(
                    model=name,
                    benchmark=column.strip(),
                    metric=METRIC,
                    value=value,
                    stderr=_optional(stderr, f"{place}, {column}{_STDERR}", problems),
                    where=place,
                )
            )
    refuse(problems, _ADVICE)
    return ScoreFile(kind=kind, scores=scores, missing=missing, sizes=sizes)


def _long(
    rows: Sequence[Row], model: str, plain: Mapping[str, str], where: str, wanted: Wanted
) -> ScoreFile:
    scores: list[Score] = []
    missing: list[Missing] = []
    problems: list[str] = []

    def cell(row: Row, name: str) -> Any:
        return row.get(plain[name]) if name in plain else None

    for place, row, name in _named(rows, model, where, problems):
        benchmark = str(cell(row, "benchmark") or "").strip()
        if not benchmark:
            problems.append(f"{place}: no benchmark")
            continue
        if not wanted(benchmark):
            continue
        if _empty(cell(row, "value")):
            missing.append(Missing(model=name, benchmark=benchmark, where=place))
            continue
        n = _optional(cell(row, "n"), f"{place}, n", problems)
        scores.append(
            Score(
                model=name,
                benchmark=benchmark,
                metric=str(cell(row, "metric") or "").strip() or METRIC,
                value=_value(cell(row, "value"), f"{place}, value", problems),
                stderr=_optional(cell(row, "stderr"), f"{place}, stderr", problems),
                n=None if n is None else int(n),
                where=place,
            )
        )
    refuse(problems, _ADVICE)
    return ScoreFile(kind="csv", scores=scores, missing=missing)


_ADVICE: Final = (
    "A score is a plain number with a decimal point; an empty cell is a missing one. "
    "Correct the file, or take only some of its columns: --benchmark NAME,..."
)


def _named(
    rows: Sequence[Row], model: str, where: str, problems: list[str]
) -> list[tuple[str, Row, str]]:
    """(place, row, model's name) of every row; one without a name is a problem."""
    found = []
    for index, row in enumerate(rows, start=1):
        place = f"{where}, row {index}"
        name = str(row[model] or "").strip()
        if name:
            found.append((place, row, name))
        else:
            problems.append(f"{place}: no model")
    return found


def _empty(cell: Any) -> bool:
    """Nothing there; in parquet also NaN, which is how pandas writes nothing."""
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _value(cell: Any, place: str, problems: list[str]) -> float:
    value = number(cell)
    if value is None:
        problems.append(f"{place}: {cell!r} is not a number")
        return 0.0  # never returned: the problem is raised
    return value


def _optional(cell: Any, place: str, problems: list[str]) -> float | None:
    return None if _empty(cell) else _value(cell, place, problems)


def _read(data: bytes, where: str) -> tuple[list[str], list[Row]]:
    """Names of the columns, and the rows by name; cells as text, or as parquet types them."""
    suffix = PurePath(where).suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(data, where)
    try:
        text = data.decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ","))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_form(where, f"not readable as text ({error})") from None
    header, *rows = [line for line in lines if any(line)] or [[]]
    twice = sorted({name for name in header if header.count(name) > 1})
    refuse([f"{where}: column {name!r} is there twice" for name in twice], "Leave one out.")
    refuse(
        [
            f"{where}, row {index}: {len(row)} cells, the header has {len(header)}"
            for index, row in enumerate(rows, start=1)
            if len(row) != len(header)
        ],
        "Fields with commas need quotes.",
    )
    return header, [dict(zip(header, map(str.strip, row), strict=True)) for row in rows]


def _read_parquet(data: bytes, where: str) -> tuple[list[str], list[Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            told = file.metadata
            if told.num_rows * told.num_columns > MAX_CELLS:
                raise ValueError(f"{told.num_rows} rows of {told.num_columns} columns")
            table = file.read()
        table.validate(full=True)
        return table.column_names, table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # names may be no text
        raise _no_form(where, f"not readable as parquet ({error})") from None


def _no_form(where: str, why: str) -> InputError:
    return InputError(
        f"{where}: no table of scores: {why}. A table has a column `model` and a column for each "
        "benchmark; or `model`, `benchmark`, `metric`, `value`; or is an Open LLM Leaderboard "
        "export (`fullname`, `IFEval`, ...).",
        kind=ErrorKind.INVALID_VALUE,
    )
