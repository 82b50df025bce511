"""Queries on the comparisons of two models that the database holds."""

from typing import Final

from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.report.queries import Query, with_intervals
from lpp.sql import saved_query
from lpp.sql.schema import TABLES

_COMMAND: Final = "lpp-analyze diff STORE RUN_A RUN_B"

DRIFT: Final = Query(
    "drift",
    "What changed in the predictions, with 95 % intervals of the mean",
    "drift_predictions",
    TABLES["drift_predictions"].key,
    "SELECT run_a, run_b, n_prompts, first_position, n_drawn, number, unit,\n"
    "  mean, stderr AS mean_stderr, ci_low AS mean_ci_low, ci_high AS mean_ci_high,\n"
    "  median, p99, maximum, n_tokens\n"
    "FROM drift_predictions\n"
    "ORDER BY run_a, run_b, n_prompts DESC, first_position, n_drawn,\n"
    f"  list_position({[*PREDICTIONS]}, number)",
    _COMMAND,
    first=("run_a", "run_b", "number", "mean", "unit", "p99"),
)

DRIFT_SITES: Final = Query(
    "drift-sites",
    "What changed at each site, with 95 % intervals",
    "drift_sites",
    TABLES["drift_sites"].key,
    f"SELECT {', '.join(TABLES['drift_sites'].key)}, flags, depth, n_tokens,\n"
    f"  {with_intervals(SITE_CHANGES)}\n"
    "FROM drift_sites\n"
    "ORDER BY run_a, run_b, n_prompts DESC, first_position, depth, site",
    _COMMAND,
    first=("run_a", "run_b", "site", "relative_distance", "cka", "flags"),
)

DRIFT_HISTOGRAM: Final = Query(
    "drift-histogram",
    "KL per token: how many tokens have how much, four bins to a decade",
    "drift_tokens",
    ("run_a", "run_b", "kl_from"),
    "WITH bins AS (\n"
    "  SELECT run_a, run_b, count(*) AS n_tokens,\n"
    "    CASE WHEN kl > 0 THEN least(greatest(floor(4 * log10(kl)), -36), 16)::INTEGER END AS bin\n"
    "  FROM drift_tokens WHERE kl IS NOT NULL GROUP BY ALL\n"
    "),\n"
    "every AS (\n"
    "  SELECT run_a, run_b, unnest(range(min(bin), max(bin) + 1)) AS bin\n"
    "  FROM bins GROUP BY run_a, run_b\n"
    "  UNION ALL SELECT run_a, run_b, NULL FROM bins WHERE bin IS NULL\n"
    ")\n"
    "SELECT every.run_a, every.run_b, pow(10, every.bin / 4) AS kl_from,\n"
    "  pow(10, (every.bin + 1) / 4) AS kl_below, coalesce(n_tokens, 0) AS n_tokens,\n"
    "  coalesce(n_tokens, 0)\n"
    "    / sum(n_tokens) OVER (PARTITION BY every.run_a, every.run_b) AS share\n"
    "FROM every LEFT JOIN bins ON bins.run_a = every.run_a AND bins.run_b = every.run_b\n"
    "  AND bins.bin IS NOT DISTINCT FROM every.bin\n"
    "ORDER BY every.run_a, every.run_b, every.bin",
    _COMMAND,
    folded=True,
    first=("run_a", "run_b", "kl_from", "kl_below", "share", "n_tokens"),
)

DRIFT_POSITIONS: Final = Query(
    "drift-positions",
    "KL and flips by position in the prompt, with 95 % intervals",
    "drift_tokens",
    ("run_a", "run_b", "first"),
    "from lpp.analyze.drift.summaries import by_position\n"
    "from lpp.analyze.tables.database import read_table\n\n"
    'tokens = read_table(STORE, "drift_tokens")\n'
    "by_position(tokens.filter(run_a=RUN_A, run_b=RUN_B))",
    _COMMAND,
    language="Python",
    folded=True,
    first=("run_a", "run_b", "first", "end", "kl", "flips"),
)

DRIFT_TOKENS: Final = Query(
    "drift-tokens",
    "The ten tokens of each pair after which the predictions changed most",
    "drift_tokens",
    ("run_a", "run_b", "source_row", "position"),
    saved_query("drift_tokens").statement,
    _COMMAND,
    # a comparison without logits has `change` in place of `kl`; the text is wide, so it is last
    first=("run_a", "run_b", "came", "expected_a", "expected_b", "kl", "change", "text_so_far"),
)

DRIFT_QUERIES: Final = (DRIFT, DRIFT_SITES, DRIFT_HISTOGRAM)
"""Queries that need only the tables. KL by position is computed in Python; texts need the views."""
