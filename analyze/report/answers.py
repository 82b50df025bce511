"""Run the report's queries on the database; an unanswered query carries the reason."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import polars as pl

from lpp.analyze.drift.pages import drift_page_tables as page_tables
from lpp.analyze.evaluations.pages import items_page_tables as item_page_tables
from lpp.analyze.pages.table import FIRST_COLUMNS, Shape, Table, own_columns, table_of
from lpp.analyze.report.queries import Query
from lpp.analyze.studies.pages.profile_summary import SETTING
from lpp.sql.database.connect import DATABASE, reading
from lpp.sql.database.files import profiles_path
from lpp.sql.place import store_root
from lpp.sql.schema import TABLES, VIEWS, Column
from lpp.sql.schema.captured import PROMPTS
from lpp.sql.schema.columns import FIRST_POSITION
from lpp.store.errors import ErrorKind, InputError, LppError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_COMPUTED: Final = (
    *(column for column in TABLES["layers"].columns if column.name == "relative_depth"),
    Column("rank", "INTEGER", "rank of the eigenvalue, 1 is the largest"),
    Column("eigenvalue", "DOUBLE", "eigenvalue of the covariance", "variance"),
    Column("share", "DOUBLE", "eigenvalue / sum of all eigenvalues", "share"),
    Column("value_a", "DOUBLE", "extreme of the first run over its prefixes", "of the metric"),
    Column("value_b", "DOUBLE", "value of the second run at that prefix", "of the metric"),
    Column("extreme_b", "DOUBLE", "extreme of the second run over its prefixes", "of the metric"),
    Column("extreme_b_prefix", "INTEGER", "prefix of the second run's extreme", "tokens"),
    Column("prefix", "INTEGER", "prefix of the first run's extreme", "tokens"),
    Column("difference", "DOUBLE", "second value - first value", "of the metric"),
    *(column for column in TABLES["profiles"].columns if column.name == "cluster"),
    Column("verdict", "VARCHAR", "whether the interval of the difference excludes 0"),
    *PROMPTS.columns,
    Column("token", "VARCHAR", "the token that followed; ␣ is a space"),
    Column("expected", "VARCHAR", "the likeliest token at this position"),
    Column("surprisal", "DOUBLE", "-ln p of the token that followed", "nats"),
    Column("metric", "VARCHAR", "name of the metric"),
    Column("run_id", "VARCHAR", "run id, for commands and SQL"),
    Column("run_a", "VARCHAR", "run id"),
    Column("run_b", "VARCHAR", "run id"),
    FIRST_POSITION,
    *(column for column in TABLES["runs"].columns if column.name in ("series", "step")),
    Column("flag", "VARCHAR", "name of the flag; its meaning is below"),
    Column("table", "VARCHAR", "table with flagged rows"),
    Column("of", "VARCHAR", "the run; of a correlation, the metric of the profile"),
    Column("n_rows", "BIGINT", "number of flagged rows", "rows"),
    *page_tables.COLUMNS,
    *item_page_tables.COLUMNS,
    Column("n_items", "BIGINT", "items that are right or wrong", "items"),
    Column("other_site", "BOOLEAN", "whether the runs have no common site"),
    Column("other_context", "BOOLEAN", "whether the runs have no common context"),
    Column("other_n_prompts", "BOOLEAN", "whether the runs have no common number of prompts"),
    Column("other_texts", "BOOLEAN", "whether the runs read different texts (prompt_set)"),
)
"""Columns that a query makes and no table declares."""

_DECLARED: Final = {**TABLES, **{view.name: view for view in VIEWS}}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one query."""

    query: Query
    frame: pl.DataFrame
    fault: str | None = None
    """Why the database could not answer; None if it could."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """Declarations of those columns of the frame that have one."""
        known = {column.name: column for column in _COMPUTED}
        known |= {column.name: column for column in _DECLARED[self.query.table].columns}
        return {name: known[name] for name in self.frame.columns if name in known}

    def table(self) -> Table:
        """The answer as a table of the page."""
        query = self.query
        return table_of(
            query.name,
            query.title,
            self.frame,
            self.columns,
            first=self._first(),
            key=tuple(name for name in query.key if name in self.frame.columns),
            code=query.sql,
            language=query.language,
            source=query.source,
            folded=query.folded,
            brief=query.name in BRIEF,
            missing=self.missing,
        )

    def _first(self) -> list[str]:
        """Columns shown first; beside the key a setting, if rows differ in it, and clusters."""
        wanted = self.query.first or own_columns(self.frame)[:FIRST_COLUMNS]
        chosen = [name for name in wanted if name in self.frame.columns]
        if len(chosen) < 2:
            return []
        settings: list[str] = [
            name
            for name in SETTING
            if name in self.frame.columns and name not in chosen and self.frame[name].n_unique() > 1
        ]
        if "cluster" in self.frame.columns and self.frame["cluster"].null_count() < len(self.frame):
            settings.append("cluster")  # errors that are not over prompts, or not all of them
        return [*chosen[:1], *settings, *chosen[1:]]

    @property
    def missing(self) -> str | None:
        """Text to show in place of an empty table; None if there are rows."""
        if self.fault is not None:
            return self.fault
        where = f"table {self.query.table}" if self.query.language == "SQL" else "analysis cache"
        return None if len(self.frame) else f"The {where} has no rows for it"


MOST_RUNS: Final = 60
"""Most runs of a page that has all of its database."""

SHOWN_RUNS: Final = 24
"""Runs of a page about more."""

_OF_RUNS: Final = ("run", "run_a", "run_b")

BRIEF: Final = (
    *("runs", "profiles", "training", "drift_predictions", "hourglass", "item-analyses"),
    "correlations",
)
"""Tables of the summary in Markdown; the page has all."""

Answers = Mapping[str, Answer]
"""Answers by the name of their query."""


def corpora(answers: Answers) -> frozenset[str]:
    """Ids of the runs on a corpus: not of evaluations, which nobody asks for a profile."""
    runs = answers["runs"].frame
    return frozenset(runs.filter(pl.col("task").is_null())["run"]) if runs.width else frozenset()


def ask(
    url: str | os.PathLike[str], queries: Iterable[Query], runs: "PageRuns | None" = None
) -> dict[str, Answer]:
    """Every answer of the store at `url`; without a database every frame is empty.

    runs: only rows of its `shown` runs; None: of every run. Raises FormatError for what is not a
    store, ConflictError(IN_USE) beside a writer.
    """
    with _connection(url) as connection:
        if runs is not None:
            _restrict(connection, runs.shown)
        return {query.name: answer(connection, query) for query in queries}


def tables_of(
    answers: Answers, shapes: Sequence[Shape], shaped: Callable[..., Table]
) -> Iterator[Table]:
    """The answers that have rows, as tables of `shapes`; Markdown shows the first of these.

    shaped: makes a table of a shape and a frame.
    """
    for shape in shapes:
        query, frame = answers[shape.name].query, answers[shape.name].frame
        if frame.height:
            yield shaped(
                shape,
                frame,
                code=query.sql,
                language=query.language,
                source=query.source,
                folded=query.folded,
                brief=shape is shapes[0],
            )


@dataclass(frozen=True, slots=True)
class PageRuns:
    """Ids of the runs of a large database that a page shows, and of all its runs."""

    shown: tuple[str, ...]
    all_runs: tuple[str, ...]

    def only(self, answer: Answer) -> Answer:
        """`answer` without rows of other runs."""
        named = [name for name in _OF_RUNS if name in answer.frame.columns]
        shown = [pl.col(name).is_in(self.shown) for name in named]
        return replace(answer, frame=answer.frame.filter(*shown)) if shown else answer


def page_runs(url: str | os.PathLike[str], base: str | None = None) -> PageRuns | None:
    """The runs of the page about the store at `url`; None: every run, of at most `MOST_RUNS`.

    Of more, those with the smallest and the largest numbers, and the first by id: a page of all
    would be of tens of megabytes, and of millions of pairs. As many evaluations stand beside them.

    base: a run that is among them.
    """
    with _connection(url) as connection:
        all_runs = connection.execute("SELECT run, task FROM runs ORDER BY 1").fetchall()
        evaluations = [run for run, task in all_runs if task is not None]
        if len(all_runs) - len(evaluations) <= MOST_RUNS:
            return None
        ranks = ", ".join(
            f"row_number() OVER (ORDER BY {number}{order}, run)"
            for number in ("entropy_floor", "participation_ratio", "effective_rank")
            for order in ("", " DESC")
        )
        ends = f"SELECT run, least({ranks}) AS best_rank FROM profiles"
        rows = connection.execute(
            f"SELECT run FROM runs LEFT JOIN ({ends}) USING (run) WHERE task IS NULL GROUP BY run "
            f"ORDER BY min(best_rank), run LIMIT {SHOWN_RUNS}"
        ).fetchall()
    shown = sorted({*([] if base is None else [base]), *(run for (run,) in rows)})
    beside = evaluations[:SHOWN_RUNS]
    return PageRuns((*shown, *beside), tuple(run for run, _ in all_runs))


def _restrict(connection: "DuckDBPyConnection", runs: Sequence[str]) -> None:
    """Hide the rows of other runs: a temporary view stands before each table that has runs."""
    connection.execute("CREATE TEMP TABLE shown_runs (run VARCHAR)")
    connection.executemany("INSERT INTO shown_runs VALUES (?)", [[run] for run in runs])
    for table in TABLES.values():
        named = [column.name for column in table.columns if column.name in _OF_RUNS]
        where = " AND ".join(f"{name} IN (FROM shown_runs)" for name in named)
        if where:
            rows = f"FROM {DATABASE}.main.{table.name} WHERE {where}"
            connection.execute(f"CREATE TEMP VIEW {table.name} AS {rows}")


def ask_views(url: str | os.PathLike[str], query: Query) -> Answer:
    """The answer to a query over the views of `lpp.sql.connect`, which read token statistics."""
    try:
        profiles_path(store_root(url))  # a report is of what was profiled
        with reading(url, token_stats=True) as connection:
            return answer(connection, query)
    except LppError as error:
        return Answer(query, pl.DataFrame(), str(error).rstrip("."))


def answer(connection: "DuckDBPyConnection", query: Query) -> Answer:
    """The answer to a query over the tables of `connection`."""
    import duckdb

    try:
        return Answer(query, connection.sql(query.sql).pl())
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        first = str(error).strip().partition("\n")[0]
        return Answer(query, pl.DataFrame(), f"Another release made this database ({first})")


@contextmanager
def _connection(url: str | os.PathLike[str]) -> Iterator["DuckDBPyConnection"]:
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(reading(url))
        except InputError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise
            connection = stack.enter_context(empty_tables())  # nothing was profiled
        yield connection


def empty_tables() -> "DuckDBPyConnection":
    """A connection to the declared tables, in memory and empty."""
    import duckdb

    from lpp.sql.schema.ddl import create_table

    connection = duckdb.connect()
    for table in TABLES.values():
        for statement in create_table(table):
            connection.execute(statement)
    return connection
