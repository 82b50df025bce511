"""The report's queries: one SQL statement for each table, shown beside its result.

With these statements a reader gets the same numbers from `lpp-sql`. Outside SQL, the report only
chooses what to say.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from lpp.analyze.pages.table import Source
from lpp.analyze.quantities.flags import COLLAPSED_RATIO
from lpp.analyze.tables.database import differences_sql
from lpp.sql import saved_query
from lpp.sql.schema import TABLES

PROFILE_METRICS: Final = (
    "entropy_floor",
    "participation_ratio",
    "participation_ratio_norm",
    "effective_rank",
    "effective_rank_norm",
)
"""Numbers of the table `profiles` that have an interval."""


@dataclass(frozen=True)
class Query:
    """One question, and how its answer is read."""

    name: str
    """Identifies it in the page: `#sql-<name>`."""
    title: str
    """Caption of the table."""
    table: str
    """Declared table that gives columns their units and meanings."""
    key: tuple[str, ...]
    """Columns that identify a row of the answer."""
    sql: str
    command: str
    """Command that computes missing rows; STORE stands for the store."""
    language: Literal["SQL", "Python"] = "SQL"
    """Language of `sql`. Eigenvalues are in no table of the database: their code is Python."""
    folded: bool = False
    """Whether the page shows the table only on demand, however short it is."""
    first: tuple[str, ...] = ()
    """Columns that the page shows first, in this order; the others are there on demand. None: the
    first few."""

    @cached_property
    def source(self) -> Source | None:
        """Where each number comes from, if the query only selects from one table."""
        return _source(self.sql) if self.language == "SQL" else None


_PLAIN: Final = re.compile(
    r"SELECT (?P<columns>[^()]+?)\s+FROM (?P<table>\w+)(?:\s+WHERE .+?)?\s+ORDER BY", re.DOTALL
)


def _source(sql: str) -> Source | None:
    """The table of a plain selection.

    >>> _source("SELECT run, low AS value_low FROM t ORDER BY run")
    Source(table='t', expressions={'value_low': 'low'})
    >>> _source("SELECT run FROM a JOIN b USING (run) ORDER BY run")
    """
    match = _PLAIN.match(sql)
    if match is None or re.search(r"\b(?:JOIN|UNION|DISTINCT|GROUP)\b", sql):
        return None
    words = (column.split(" AS ") for column in re.split(r",\s*", match["columns"].strip()))
    return Source(match["table"], {pair[1]: pair[0] for pair in words if len(pair) == 2})


def with_intervals(names: Iterable[str], *, prefixes: bool = False) -> str:
    """Columns of numbers, each with the ends of its interval, and the prefix it came from."""
    ends = ("", "_ci_low", "_ci_high", *(("_prefix",) if prefixes else ()))
    return ",\n  ".join(", ".join(f"{name}{end}" for end in ends) for name in names)


def _key(table: str, *first: str) -> str:
    """`first`, then the other columns that identify a row of `table`."""
    return ", ".join(dict.fromkeys((*first, *TABLES[table].key)))


_RUNS: Final = Query(
    "runs",
    "Runs: which model, on what, captured how",
    "runs",
    ("run",),
    "SELECT run, run AS run_id, model, untrained_seed, n_parameters, n_blocks, hidden_size,\n"
    "  corpus, n_prompts, n_quarantined, not_finite_from, n_texts_set_aside,\n"
    "  n_tokens, context, backend, compute_dtype, stored_dtype, logit_positions,\n"
    "  architecture, revision, prompt_set, task\nFROM runs ORDER BY task IS NOT NULL, run",
    "lpp-analyze profile STORE",
    first=("run", "n_prompts", "context", "n_tokens", "corpus", "model"),
)

PROFILES: Final = Query(
    "profiles",
    "Profiles: the smallest entropy and the largest ranks over prefixes, with 95 % intervals",
    "profiles",
    TABLES["profiles"].key,
    f"SELECT {_key('profiles', 'run', 'site')}, cluster, flags,\n  "
    f"{with_intervals(PROFILE_METRICS, prefixes=True)}\n"
    "FROM profiles ORDER BY context, n_prompts, run",
    "lpp-analyze profile STORE",
    first=("run", "entropy_floor", "participation_ratio", "effective_rank", "flags"),
)


def differences(base: str | None) -> Query:
    """Every two runs. base: the run that is A in its pairs; by default the first one by id."""
    return Query(
        "differences",
        "Differences between two runs, second - first, each with its 95 % interval",
        "profiles",
        ("run_a", "run_b", "context", "n_prompts", "first_position", "metric"),
        differences_sql(base),
        "lpp-analyze profile STORE",
        first=("run_a", "run_b", "metric", "prefix", "difference", "verdict", "flags"),
    )


DIFFERENCES: Final = differences(None)

_METRICS: Final = Query(
    "metrics",
    "Declared metrics of the whole context, with 95 % intervals",
    "metrics",
    tuple(name for name in TABLES["metrics"].key if name != "prefix"),
    "SELECT run, site, context, n_prompts, first_position, metric, unit, value,\n"
    "  ci_low AS value_ci_low, ci_high AS value_ci_high, cluster, flags\n"
    "FROM metrics WHERE prefix = context\n"
    "ORDER BY metric, context, n_prompts, first_position, run, site",
    "lpp-analyze profile STORE --metrics NAME",
    first=("run", "metric", "value", "unit", "flags", "site"),
)

TRAINING: Final = Query(
    "training",
    "Checkpoints: profiles by series and step, with 95 % intervals",
    "profiles",
    TABLES["profiles"].key,
    "SELECT series, step, run, site, p.context, p.n_prompts, first_position, p.corpus,\n"
    "  p.prompt_set, p.cluster, flags,\n  "
    f"{with_intervals(PROFILE_METRICS, prefixes=True)}\n"
    "FROM profiles p JOIN runs USING (run) WHERE series IS NOT NULL\n"
    "ORDER BY series, p.prompt_set, p.context, p.n_prompts, first_position, step, run",
    "lpp-analyze profile STORE",
    first=("run", "step", "entropy_floor", "participation_ratio", "effective_rank", "series"),
)

_OF_LAYERS: Final = tuple(name for name in TABLES["spectra"].key if name != "prefix")
_RANKS: Final = ("participation_ratio", "effective_rank")
_NUMBERS_OF_LAYERS: Final = (
    f"{with_intervals(_RANKS)},\n"
    "  participation_ratio_stderr, effective_rank_stderr,\n"
    "  participation_ratio_norm, effective_rank_norm, top_share"
)
_ERRORS_OF_LAYERS: Final = ",\n    ".join(
    f"coalesce(l.{column}, s.{column}) AS {column}"
    for rank in _RANKS
    for column in (f"{rank}_stderr", f"{rank}_ci_low", f"{rank}_ci_high")
)
"""An error that either table has: both hold the same ranks, and the default of `layers` is none."""

_ERRORS_OF_SPECTRA: Final = " OR ".join(f"l.{rank}_stderr IS NULL" for rank in _RANKS)
"""Whether an error of a layer is that of the table `spectra`."""

LAYERS: Final = Query(
    "layers",
    "Ranks of the whole context at every captured layer",
    "spectra",
    _OF_LAYERS,
    f"SELECT {', '.join(_OF_LAYERS)},\n"
    "  list_filter(flags, lambda flag: flag <> 'no_error') AS flags,  -- the intervals show it\n"
    f"  depth, relative_depth, n_tokens, rank_bound, cluster,\n  {_NUMBERS_OF_LAYERS}\n"
    f"FROM (\n  SELECT l.* REPLACE (\n    {_ERRORS_OF_LAYERS}\n  ),\n"
    f"    CASE WHEN {_ERRORS_OF_SPECTRA} THEN s.cluster END AS cluster\n"
    "  FROM layers l LEFT JOIN spectra s ON s.prefix = l.context AND "
    f"{' AND '.join(f's.{name} = l.{name}' for name in _OF_LAYERS)}\n"
    ")\n"
    "UNION ALL BY NAME\n"
    f"SELECT {', '.join(f's.{name}' for name in _OF_LAYERS)},\n  list_filter([\n"
    f"    CASE WHEN 0 < participation_ratio AND participation_ratio <= {COLLAPSED_RATIO} "
    "THEN 'collapsed' END,\n"
    "    CASE WHEN n_sinks > 0 THEN 'sink' END\n"
    "  ], lambda flag: flag IS NOT NULL) AS flags,\n"
    "  depth, depth / n_blocks AS relative_depth, s.n_tokens, rank_bound, cluster,\n  "
    f"{_NUMBERS_OF_LAYERS}\n"
    "FROM (FROM spectra ANTI JOIN layers USING (run, context, n_prompts)) s\n"
    "JOIN runs USING (run)\n"
    "WHERE prefix = s.context\n"
    "ORDER BY context, n_prompts, run, first_position, depth, site",
    "lpp-analyze profile STORE",
    first=("run", "participation_ratio", "effective_rank", "top_share", "flags", "site"),
)

HOURGLASS: Final = Query(
    "hourglass",
    "Hourglass score: above 0 where both ends of a model use more dimensions than its middle",
    "hourglass",
    TABLES["hourglass"].key,
    f"SELECT {_key('hourglass')}, score, first, middle, last,\n"
    "  n_layers, n_collapsed, n_missing, reason\n"
    "FROM hourglass ORDER BY context, n_prompts, metric, run",
    "lpp-analyze layers STORE --errors final",
    first=("run", "score", "metric", "first", "middle", "last"),
)

_SPECTRA: Final = Query(
    "spectra",
    "Ranks at every site and prefix",
    "spectra",
    TABLES["spectra"].key,
    f"SELECT {_key('spectra')}, depth, n_tokens, dim, rank_bound, cluster,\n  "
    f"{with_intervals(('participation_ratio', 'effective_rank', 'top_share'))}\n"
    "FROM spectra ORDER BY context, n_prompts, run, depth, site, prefix",
    "lpp-analyze profile STORE",
    first=("run", "participation_ratio", "effective_rank", "top_share", "prefix", "site"),
)

ENTROPY: Final = Query(
    "entropy",
    "Entropy of the next token after each prefix",
    "entropy",
    ("run", "context", "prefix", "n_prompts"),
    f"SELECT run, context, prefix, n_prompts,\n  {with_intervals(('entropy', 'entropy_norm'))},\n"
    "  short_prompts, distinct_prefixes, cluster\n"
    "FROM entropy ORDER BY context, n_prompts, run, prefix",
    "lpp-analyze profile STORE",
    first=("run", "prefix", "entropy_norm", "entropy"),
)


BENCHMARKS: Final = Query(
    "benchmarks",
    "Benchmark scores, as their sources give them",
    "benchmarks",
    ("model", "benchmark", "metric", "source"),
    "SELECT model, run, benchmark, metric, source, value, stderr, n, match_note\n"
    "FROM benchmarks ORDER BY source, benchmark, metric, run, model",
    "lpp-analyze benchmarks add STORE FILES",
    first=("model", "benchmark", "metric", "value", "n", "source"),
)

CORRELATIONS: Final = Query(
    "correlations",
    "Correlations of profiles with benchmarks, over models",
    "correlations",
    ("profile_metric", "benchmark", "benchmark_metric", "source", "method", "controlled_for"),
    "SELECT profile_metric, benchmark, benchmark_metric, source, method, controlled_for,\n"
    "  n_models, coefficient, ci_low AS coefficient_ci_low, ci_high AS coefficient_ci_high,\n"
    "  p_value, q_value, family_size, flags\n"
    "FROM correlations ORDER BY source, method, q_value, profile_metric, benchmark",
    "lpp-analyze correlate STORE",
    first=("profile_metric", "benchmark", "coefficient", "q_value", "method", "flags"),
)

PUBLISHED: Final = Query(
    "published",
    "The eight published models: a reference, no run of this store",
    "published",
    ("model",),
    "SELECT model, n_parameters, corpus, n_prompts, context, entropy_floor,\n"
    "  participation_ratio_norm, effective_rank_norm, ifeval, bbh, mmlu_pro\n"
    "FROM published ORDER BY model",
    "lpp-analyze profile STORE",
    first=("model", "entropy_floor", "participation_ratio_norm", "effective_rank_norm", "mmlu_pro"),
    folded=True,
)

_FLAGGED: Final = (
    ("profiles", "run"),
    ("site_profiles", "run"),
    ("layers", "run"),
    ("metrics", "run"),
    ("correlations", "profile_metric"),
)

FLAGS: Final = Query(
    "flags",
    "Flags: how many rows of each table carry one",
    "profiles",
    ("table", "of", "flag"),
    'SELECT "table", "of", flag, count(*) AS n_rows FROM (\n'
    + "\nUNION ALL\n".join(
        f'  SELECT \'{table}\' AS "table", {column} AS "of", unnest(flags) AS flag FROM {table}'
        for table, column in _FLAGGED
    )
    + '\n) GROUP BY ALL ORDER BY flag, "table", "of"',
    "lpp-analyze profile STORE",
    first=("flag", "n_rows", "of", "table"),
)

APART: Final = Query(
    "apart",
    "Pairs of runs without a common setting: none of their profiles may be compared",
    "profiles",
    ("run_a", "run_b"),
    "SELECT a.run AS run_a, b.run AS run_b,\n"
    "  NOT bool_or(a.site = b.site) AS other_site,\n"
    "  NOT bool_or(a.context = b.context) AS other_context,\n"
    "  NOT bool_or(a.n_prompts = b.n_prompts) AS other_n_prompts,\n"
    "  NOT bool_or(a.prompt_set = b.prompt_set) AS other_texts\n"
    "FROM profiles a JOIN profiles b ON a.run < b.run\n"
    "GROUP BY a.run, b.run\n"
    "HAVING NOT bool_or(a.site = b.site AND a.context = b.context\n"
    "  AND a.n_prompts = b.n_prompts AND a.prompt_set = b.prompt_set)\n"
    "ORDER BY a.run, b.run",
    "lpp-analyze profile STORE",
    first=("run_a", "run_b", "other_site", "other_context", "other_n_prompts", "other_texts"),
)

PLANS: Final = Query(
    "plans",
    "Plans: everything that could change a number",
    "runs",
    ("run",),
    "SELECT run, name, plan_hash, plan, shards, n_prompts FROM runs ORDER BY task IS NOT NULL, run",
    "lpp-analyze profile STORE",
)

EIGENVALUES: Final = Query(
    "eigenvalues",
    "Spectra: the largest eigenvalues and log-spaced ones below, of the last site and whole prefix",
    "spectra",
    ("run", "rank"),
    "from lpp.analyze.tables.eigenvalues import read_eigenvalues\n\n"
    "read_eigenvalues(STORE)  # every eigenvalue of `final`",
    "lpp-analyze profile STORE",
    language="Python",
    first=("run", "rank", "eigenvalue", "share", "site", "prefix"),
)

SURPRISES: Final = Query(
    "surprises",
    "The ten next tokens of each run with the smallest probability",
    "token_stats",
    ("run", "source_row", "position"),
    saved_query("surprises").statement,
    "lpp-capture run --store STORE",
    first=("run", "token", "expected", "surprisal", "entropy", "next_rank"),
)


def whole(table: str) -> Query:
    """A declared table as it is: what charts are made of."""
    sql = f"FROM {table}"
    return Query(f"all-{table}", TABLES[table].meaning, table, TABLES[table].key, sql, "")


CHARTED: Final = tuple(whole(table) for table in ("profiles", "entropy"))
"""Tables that charts take whole."""

QUERIES: Final = (
    *(
        _RUNS,
        PROFILES,
        DIFFERENCES,
        _METRICS,
        TRAINING,
        LAYERS,
        HOURGLASS,
        _SPECTRA,
        ENTROPY,
    ),
    *(BENCHMARKS, CORRELATIONS, PUBLISHED, FLAGS, APART),
    PLANS,
    *CHARTED,
)
"""All queries, in the order of the page."""
