"""Merge rows of the old database with new ones: which rows stay, and what a new row takes over.

Each statement is atomic, so a table of the old file whose rows violate the key, or whose blocks are
damaged, leaves the new rows unchanged.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from lpp.sql.schema.columns import ERRORS, RUN_COLUMNS, ColumnPart, Merging, Table
from lpp.sql.schema.ddl import identifier, literal
from lpp.sql.schema.evaluations import EVALUATION_KEY
from lpp.sql.schema.tables import TABLES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ALIKE: Final = 1e-9
"""Largest relative difference of two computations of one number: BLAS rounds by its threads."""

_DEPTHS: Final = "(SELECT run, site, max(depth) AS depth FROM spectra GROUP BY run, site)"
"""Depth of each site of a run. A site may have any name: that of `final` tells no depth."""


def find_unchanged(connection: "DuckDBPyConnection", comparable: Collection[str]) -> None:
    """Make the temporary tables `unchanged` and `unchanged_evaluations`, for `merge_rows`.

    comparable: tables of `old` that have the declared columns. Without `runs` every run counts as
    changed, without `evaluations` every evaluation. Raises duckdb.Error.
    """
    for target, name, key, state in (
        ("unchanged", "runs", ("run",), ("shards", "kernel")),
        ("unchanged_evaluations", "evaluations", EVALUATION_KEY, ("items",)),
    ):
        columns = ", ".join(key)
        same = f"FROM old.main.{name} SEMI JOIN {name} USING ({columns}, {', '.join(state)})"
        rows = same if name in comparable else f"FROM {name} WHERE false"
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {target} AS SELECT {columns} {rows}")


def merge_rows(
    connection: "DuckDBPyConnection", name: str, *, comparable: bool, told: bool
) -> list[str]:
    """Copy rows of `old` into the new table `name`; returns descriptions of what was not kept.

    Call `find_unchanged` first. comparable: whether the runs of `old` could be compared; only the
    description depends on it. told: whether rows of changed runs are counted as left out. Raises
    duckdb.Error.
    """
    table = TABLES[name]
    merging = table.merging or Merging()
    target, old = identifier(name), _unchanged_rows(table, merging)
    mine = ", ".join(identifier(column) for column in table.key)
    if merging.covers:
        size_o, size_n = (
            " + ".join(f"{side}.{column}" for column in merging.covers) for side in ("o", "n")
        )
        connection.execute(
            f"INSERT OR REPLACE INTO {target} SELECT o.* FROM {old} AS o "
            f"JOIN {target} AS n USING ({mine}) WHERE {size_o} > {size_n}"
        )
    elif not merging.replaced:
        connection.execute(_completed(table, old))
    replaced = ", ".join(identifier(column) for column in merging.replaced or table.key)
    connection.execute(
        f"INSERT INTO {target} SELECT o.* FROM {old} AS o ANTI JOIN {target} USING ({replaced})"
    )
    if not told:
        return []
    row = connection.execute(
        f"SELECT (SELECT count(*) FROM old.main.{target}) - (SELECT count(*) FROM {old})"
    ).fetchone()
    gone = row[0] if row else 0
    what = "runs or items" if merging.of_items else "runs"
    why = f"their {what} changed or left the store" if comparable else "of another release"
    return [f"{gone} rows of table {name} ({why})"] if gone else []


def _unchanged_rows(table: Table, merging: Merging) -> str:
    """Rows of `table` in `old` whose runs and items are unchanged; rows without a run if no run
    changed.
    """
    rows = f"FROM old.main.{identifier(table.name)}"
    if merging.of_items:
        rows += f" SEMI JOIN unchanged_evaluations USING ({', '.join(EVALUATION_KEY)})"
    runs = [column.name for column in table.columns if column.name in RUN_COLUMNS]
    if runs:
        same = " AND ".join(f"{run} IN (SELECT run FROM unchanged)" for run in runs)
        return f"({rows} WHERE {same})"
    return f"({rows} WHERE NOT EXISTS (FROM old.main.runs ANTI JOIN unchanged USING (run)))"


def _completed(table: Table, old: str) -> str:
    """New rows, completed with numbers and errors that only the old row with their key has."""
    columns = {column.name for column in table.columns}
    # other prefixes make another profile; an error at the same prefix is nevertheless the same
    same = "n.prefixes IS NOT DISTINCT FROM o.prefixes" if "prefixes" in columns else "true"
    # one row, one kind of error: of clusters or of neighbours
    alike = "n.cluster IS NOT DISTINCT FROM o.cluster" if "cluster" in columns else "true"
    parts = [_of_number(number, same, alike) for number in table.numbers.values()]
    taken = ", ".join(column for columns, _ in parts for column in columns)
    where = " OR ".join(condition for _, condition in parts)
    key = ", ".join(identifier(column) for column in table.key)
    target = identifier(table.name)
    joined = f"FROM {target} AS n JOIN {old} AS o USING ({key}) WHERE {where}"
    if "flags" not in columns:
        return f"INSERT OR REPLACE INTO {target} SELECT n.* REPLACE ({taken}) {joined}"
    # a flag of an old number is kept with the number; `no_error` is about the completed row, in a
    # table that has this flag: in `spectra`, ranks of most sites have no error by default
    old_flags = f"list_filter(o.flags, lambda flag: {same} OR flag = 'small_sample')"
    unsure = " OR ".join(
        f"({number['value']} IS NOT NULL AND {number['stderr']} IS NULL)"
        for number in table.numbers.values()
        if "stderr" in number
    )
    flags = (
        "list_sort(list_distinct(list_filter(flags || old_flags, lambda flag: flag <> 'no_error') "
        "|| CASE WHEN list_contains(flags || old_flags, 'no_error') AND n_prompts > 1 "
        f"AND ({unsure}) THEN ['no_error'] ELSE [] END))"
    )
    return (
        f"INSERT OR REPLACE INTO {target} SELECT * EXCLUDE (old_flags) REPLACE ({flags} AS flags) "
        f"FROM (SELECT n.* REPLACE ({taken}), {old_flags} AS old_flags {joined})"
    )


def _of_number(number: Mapping[ColumnPart, str], same: str, alike: str) -> tuple[list[str], str]:
    """Columns of `number` in the completed row, and the condition for any to be the old row's.

    same: whether the values are of the same prefixes; alike: whether the errors are of one kind.
    """
    value, prefix, stderr = number["value"], number.get("prefix"), number.get("stderr")
    lacking = f"(n.{value} IS NULL AND o.{value} IS NOT NULL AND {same})"
    there = [value, *([prefix] if prefix else [])]
    columns = [f"CASE WHEN {lacking} THEN o.{c} ELSE n.{c} END AS {c}" for c in there]
    if not stderr:
        return columns, lacking
    surer = (
        f"(n.{stderr} IS NULL AND o.{stderr} IS NOT NULL "
        f"AND abs(n.{value} - o.{value}) <= {_ALIKE} * abs(o.{value})"
        + (f" AND n.{prefix} = o.{prefix})" if prefix else ")")
    )
    taken = f"(({lacking} OR {surer}) AND {alike})"
    errors = [number[part] for part in ERRORS]
    columns += [f"CASE WHEN {taken} THEN o.{c} ELSE n.{c} END AS {c}" for c in errors]
    return columns, f"({lacking} OR {taken})"


def make_profiles(connection: "DuckDBPyConnection") -> None:
    """Fill `profiles`: the deepest site of `site_profiles` for each run and setting."""
    key = ", ".join(TABLES["profiles"].key)
    connection.execute(
        f"INSERT INTO profiles BY NAME SELECT DISTINCT ON ({key}) site_profiles.* "
        f"FROM site_profiles LEFT JOIN {_DEPTHS} USING (run, site) "
        f"ORDER BY {key}, depth DESC NULLS LAST, site = 'final' DESC"
    )


def flag_different_prompts(connection: "DuckDBPyConnection", names: Collection[str]) -> None:
    """Set the flag `different_prompts` in the tables `names`, from the rows that are there now.

    Neighbouring rows are about different texts if their runs have several prompt sets for that
    number of prompts. If the tables do not have a run's prompt set, flags stay as they are.
    """
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE texts AS SELECT run, n_prompts, max(prompt_set) AS texts "
        "FROM site_profiles GROUP BY ALL"
    )
    for name in names:
        merging = TABLES[name].merging
        if merging and merging.beside:
            connection.execute(_flagged(identifier(name), merging.beside))


def _flagged(target: str, beside: Collection[str]) -> str:
    """Rows of `target` whose flag has to change."""
    flag, cell = literal("different_prompts"), f"OVER (PARTITION BY {', '.join(beside)})"
    return f"""
INSERT OR REPLACE INTO {target}
SELECT * EXCLUDE (texts, before) FROM (
  SELECT * REPLACE (CASE
      WHEN count(texts) {cell} < count(*) {cell} THEN flags
      WHEN min(texts) {cell} = max(texts) {cell} THEN list_filter(flags, lambda f: f <> {flag})
      ELSE list_sort(list_distinct(list_append(flags, {flag})))
    END AS flags), flags AS before
  FROM {target} LEFT JOIN texts USING (run, n_prompts)
) WHERE flags <> before"""
