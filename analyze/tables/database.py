"""The database of a store: merge the tables of a command with those of earlier ones.

Each build also updates the tables about the store itself: runs, prompts, evaluations and scores.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

import polars as pl
import pyarrow as pa

from lpp.analyze.quantities.tables import frame_schema
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.scores.published import published_table
from lpp.analyze.scores.scores import benchmarks_table
from lpp.analyze.tables.run_rows import evaluation_rows, prompts_frame, run_row
from lpp.sql import build, saved_query
from lpp.sql.database.catalogue import outdated_tables
from lpp.sql.database.connect import reading
from lpp.sql.database.merge import make_profiles
from lpp.sql.schema import TABLES, arrow_schema
from lpp.sql.schema.ddl import create_table, literal
from lpp.store import open_store
from lpp.store.errors import ErrorKind, InputError, LppError
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place, is_read_only, read_only
from lpp.store.progress import Progress
from lpp.store.shared.authors import TRUST, is_trusting, other_author

Kept = TypeVar("Kept")


def as_tables(frames: Mapping[str, pl.DataFrame]) -> dict[str, pa.Table]:
    """Each frame with the declared columns of its table; other columns are dropped, unless the
    table allows them.
    """
    tables = {}
    for name, frame in frames.items():
        schema = arrow_schema(name)
        more = [c for c in frame.columns if c not in schema.names] if TABLES[name].more else []
        table = frame.select(*schema.names, *more).to_arrow()
        further = [table.schema.field(column) for column in more]
        tables[name] = table.cast(pa.schema([*schema, *further]))
    return tables


def store_tables(root: Place, read: Iterable[RunView] = ()) -> dict[str, pa.Table]:
    """The tables `runs`, `prompts`, `evaluations`, `benchmarks` and `published` of the store at
    `root`.

    They contain every run, not only those of the last command. So each row about a run joins with
    it, and a score matches the same run that `benchmarks add` named.
    """
    known = {view.run.id: view for view in read}
    all_views = [known.get(view.run.id, view) for view in views(root)]
    frames = {
        "runs": pl.DataFrame(
            [run_row(view) for view in all_views], schema=frame_schema(TABLES["runs"].columns)
        ),
        "prompts": prompts_frame(all_views),
        "evaluations": pl.DataFrame(
            evaluation_rows(root), schema=frame_schema(TABLES["evaluations"].columns)
        ),
    }
    scores = {
        "benchmarks": benchmarks_table(root, [view.run for view in all_views]),
        "published": published_table(),
    }
    return as_tables(frames) | scores


def put(
    url: Url,
    frames: Mapping[str, pl.DataFrame],
    *,
    keep: Collection[str] = ("correlations",),
    read: Iterable[RunView] = (),
) -> Place:
    """Merge `frames` into their tables, which keep rows of earlier commands about unchanged runs
    and items; return the database's path. keep: other tables that keep their rows. read: the runs
    that the frames are of, as they were read: shards committed since are not in the numbers.
    """
    root = open_store(url).path
    if is_read_only(root):  # before anything else is fetched
        raise read_only(root)
    if author := _other_author(root):
        raise InputError(
            f"{root / DATABASE_KEY} was written by {author}, whose numbers are not mixed with "
            f"yours. Add {TRUST} to keep yours among them, or give the file another name.",
            kind=ErrorKind.NOT_ALLOWED,
        )
    own = as_tables(frames)
    return build(root, lambda: store_tables(root, read) | own, keep=keep, merge=True)


def _other_author(root: Place) -> str | None:
    """Who wrote the database of the store at `root`, unless its numbers count as this user's."""
    return None if is_trusting() else other_author(root, DATABASE_KEY)


def kept(what: str, write: Callable[[], Kept], progress: Progress) -> Kept | None:
    """What `write`, which puts numbers into the database of a store, returns.

    If the database cannot be written, as in a read-only store, the result is None and a line says
    why. what: the beginning of that line, such as `The profiles are`.
    """
    try:
        return write()
    except (LppError, PermissionError) as error:  # the database has a row for each run
        progress.warn(f"{what} not in the database: {error}")
        return None


def refresh_database(root: Place, correlations: pl.DataFrame | None = None) -> bool:
    """Update runs and scores in the database of the store at `root`, if there is one.

    correlations: the new ones. Without them the table is emptied, because correlations with other
    scores would be stale. Returns False if nothing was done: there is no database, or one of
    another release, which `lpp-analyze profile` will build again, or one of another author.
    """
    if not objects_at(root).exists(DATABASE_KEY) or _other_author(root) or outdated_tables(root):
        return False
    put(root, {} if correlations is None else {"correlations": correlations}, keep=())
    return True


ALL_PAIRS: Final = 60
"""Of more runs there are no differences of every two: only those from the base."""

_FIRST: Final = "SELECT min(run) AS run FROM profiles"
"""In the saved query: the run that is A in all of its pairs."""


def differences_sql(base: str | None = None, n_runs: int = 0) -> str:
    """The saved query `differences`. base: the run that is A in its pairs; by default the first
    one by id. Of more than `ALL_PAIRS` runs: only the pairs of `base`.
    """
    statement = saved_query("differences").statement
    if base is None:
        return statement
    whole = statement.replace(_FIRST, f"SELECT {literal(base)} AS run")
    return whole if n_runs <= ALL_PAIRS else f"FROM (\n{whole}\n) WHERE run_a = {literal(base)}"


def profiles_and_differences(
    frames: Mapping[str, pl.DataFrame], base: str
) -> tuple[dict[str, pl.DataFrame], str]:
    """(the table `profiles`, and as `differences` the answer of `differences_sql`; this query),
    over `frames` alone: what a database of these tables would say. It need not be there.

    frames: `site_profiles`, `spectra`, `entropy` and `jackknife`, at least.
    """
    import duckdb

    names = ("site_profiles", "spectra", "entropy", "jackknife")
    with duckdb.connect() as connection:
        for name, table in as_tables({name: frames[name] for name in names}).items():
            connection.register(name, table)
        for statement in create_table(TABLES["profiles"]):
            connection.execute(statement)
        make_profiles(connection)
        profiles = connection.sql("FROM profiles").pl()
        query = differences_sql(base, profiles["run"].n_unique())
        return {"profiles": profiles, "differences": connection.sql(query).pl()}, query


def held_profiles(url: Url) -> str:
    """`8 profiles of 4 sites`: what the database of the store at `url` has."""
    with reading(url) as connection:
        count = "SELECT count(*), count(DISTINCT site) FROM site_profiles"
        profiles, sites = connection.sql(count).fetchall()[0]
    return f"{profiles} profiles of {sites} sites"


def read_table(url: Url, table: str) -> pl.DataFrame:
    """The rows of `table` in the database of the store at `url`."""
    with reading(url) as connection:
        rows: pl.DataFrame = connection.sql(f"FROM {table}").pl()
    return rows
