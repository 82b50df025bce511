"""What a correlation is made of: profiles out of the database, scores out of the store."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import polars as pl

from lpp.analyze.runs.keys import Url
from lpp.analyze.scores.published import SCORES as PUBLISHED_SCORES
from lpp.analyze.scores.published import SOURCE as PUBLISHED
from lpp.analyze.scores.published import published_rows
from lpp.analyze.scores.scores import by_source
from lpp.store import open_store, read_scores
from lpp.store.errors import ErrorKind, InputError
from lpp.store.items import is_evaluation

_ERRORS: Final = ("_stderr", "_ci_low", "_ci_high")


def profiled(url: Url, metrics: Collection[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`site_profiles` and `runs` of the store's database, as far as they are needed; of each run,
    whether it is an `evaluation`, and the fingerprint of its `weights`.

    Raises InputError for a database of another release, and for a metric it does not have.
    """
    from lpp.sql import TABLES
    from lpp.sql.database.catalogue import outdated_tables
    from lpp.sql.database.connect import reading
    from lpp.sql.database.outdated import warn_of_outdated

    root = open_store(url).path
    if outdated_tables(root):
        raise InputError(
            f"the database of {root} was built by another release. "
            f"Build it again: lpp-analyze profile {root}",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    numbers = [
        column.name
        for column in TABLES["site_profiles"].columns
        if column.type == "DOUBLE" and not column.name.endswith(_ERRORS)
    ]
    if unknown := [name for name in metrics if name not in numbers]:
        raise InputError(
            f"no profile metric {', '.join(unknown)}; there is {', '.join(numbers)}.",
            kind=ErrorKind.NOT_FOUND,
        )
    columns = ", ".join(["run", "site", "context", "n_prompts", "flags", *metrics])
    of_runs = "run, model, untrained_seed, n_parameters, corpus, prompt_set, n_prompts"
    with reading(root) as connection:
        warn_of_outdated(connection, root)
        whole = connection.sql(f"SELECT {columns} FROM site_profiles WHERE first_position = 0")
        profiles = whole.to_arrow_table()
        runs = connection.sql(f"SELECT {of_runs} FROM runs ORDER BY run").to_arrow_table()
    plans = {run.id: run.plan for run in open_store(url).runs.values()}
    of_plan = [(run, is_evaluation(plan), plan.model.weights) for run, plan in plans.items()]
    schema = {"run": pl.String, "evaluation": pl.Boolean, "weights": pl.String}
    joined = pl.DataFrame(runs).join(
        pl.DataFrame(of_plan, schema, orient="row"), on="run", how="left", maintain_order="left"
    )
    # the database may hold runs that the store no longer has
    known = joined.with_columns(
        pl.col("evaluation").fill_null(False),
        pl.col("weights").fill_null(""),
    )
    return pl.DataFrame(profiles), known


def scores_by_source(
    url: Url, sources: Sequence[str], *, with_published: bool
) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of scores by source, those that fit `sources`; the published ones if asked.

    Raises InputError where there are no scores, or a pattern fits no source.
    """
    rows: list[Mapping[str, Any]] = list(read_scores(open_store(url).path).to_pylist())
    if with_published:
        rows += _published_scores()
    found = by_source(rows)
    for pattern in sources:
        if found and not any(fnmatchcase(source, pattern) for source in found):
            hint = "; the published one takes part with --with-published"
            raise InputError(
                f"no source {pattern!r}; there is {', '.join(found)}"
                f"{hint if pattern == PUBLISHED else ''}.",
                kind=ErrorKind.NOT_FOUND,
            )
    if not found:
        raise InputError(
            f"{url} holds no benchmark scores yet. Add some: lpp-analyze benchmarks add {url} "
            "FILE...; or look at the published ones: --with-published.",
            kind=ErrorKind.NOT_FOUND,
        )
    return {s: rows for s, rows in found.items() if fits_any(s, sources)}


def _published_scores() -> Iterator[Mapping[str, Any]]:
    for row in published_rows():
        for column, (benchmark, metric) in PUBLISHED_SCORES.items():
            yield {
                "model": row["model"],
                "run": None,
                "benchmark": benchmark,
                "metric": metric,
                "value": row[column],
                "source": PUBLISHED,
            }


def fits_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether `name` fits any of `patterns`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
