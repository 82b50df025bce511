"""Queries on the comparisons of two models that the database holds."""

from dataclasses import asdict
from typing import Any, Final

from lpp.analyze.drift.pages import drift_page_tables as page
from lpp.analyze.pages.table import Shape
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.report.queries import Query, with_intervals
from lpp.sql import saved_query
from lpp.sql.schema import TABLES


def _query(shape: Shape, sql: str, **more: Any) -> Query:
    return Query(**asdict(shape) | more, sql=sql, command="lpp-analyze diff STORE RUN_A RUN_B")


_TOKENS: Final = (
    "from lpp.analyze.numerics.kl_histogram import kl_histogram\n"
    "from lpp.analyze.drift.summaries import by_position\n"
    "from lpp.analyze.tables.database import read_table\n\n"
    'tokens = read_table(STORE, "drift_tokens").filter(run_a=RUN_A, run_b=RUN_B)\n'
)

# of several pairs a page shows fewer columns at once: they fit a telephone
DRIFT: Final = _query(
    page.DRIFT,
    "SELECT run_a, run_b, n_prompts, first_position, n_drawn, number, unit,\n"
    "  mean, stderr AS mean_stderr, ci_low AS mean_ci_low, ci_high AS mean_ci_high,\n"
    "  median, p99, maximum, n_tokens\n"
    "FROM drift_predictions\n"
    "ORDER BY run_a, run_b, n_prompts DESC, first_position, n_drawn,\n"
    f"  list_position({[*PREDICTIONS]}, number)",
    first=("run_a", "run_b", "number", "mean", "unit", "p99"),
)
DRIFT_SITES: Final = _query(
    page.SITES,
    f"SELECT {', '.join(TABLES['drift_sites'].key)}, flags, depth, n_tokens,\n"
    f"  {with_intervals(SITE_CHANGES)}\n"
    "FROM drift_sites\n"
    "ORDER BY run_a, run_b, n_prompts DESC, first_position, depth, site",
    first=("run_a", "run_b", "site", "relative_distance", "cka", "flags"),
)
DRIFT_HISTOGRAM: Final = _query(page.HISTOGRAM, f"{_TOKENS}kl_histogram(tokens)", language="Python")
DRIFT_POSITIONS: Final = _query(page.POSITIONS, f"{_TOKENS}by_position(tokens)", language="Python")
DRIFT_TOKENS: Final = _query(page.TOKENS, saved_query("drift_tokens").statement)

DRIFT_QUERIES: Final = (DRIFT, DRIFT_SITES)
"""Queries that need only the tables. Numbers of tokens are computed in Python; texts need the
views.
"""
