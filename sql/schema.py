"""The declared tables of `profiles.duckdb`: one source for DDL, comments, checks and reference.

What a column means and its unit are part of the declaration, and travel in the database as the
column's comment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import pyarrow as pa

SqlType = Literal[
    "BOOLEAN", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "JSON", "INTEGER[]", "VARCHAR[]"
]
"""DuckDB types in use; each has one Arrow type in `arrow_schema`."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what it holds, and in what unit (empty for names and flags)."""

    name: str
    type: SqlType
    meaning: str
    unit: str = ""

    @property
    def comment(self) -> str:
        """Meaning, then the unit in brackets."""
        return f"{self.meaning} [{self.unit}]" if self.unit else self.meaning


@dataclass(frozen=True, slots=True)
class Table:
    """One table or view: columns in order, and the names of those that identify a row."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]


_RUN = Column("run", "VARCHAR", "run id: model and first 8 digits of its plan's hash")
_SITE = Column("site", "VARCHAR", "embed, block.1 to block.B, or final")
_CONTEXT = Column("context", "INTEGER", "longest prefix of the schedule", "tokens")
_PREFIX = Column("prefix", "INTEGER", "prompts are cut to this length", "tokens")
_N_PROMPTS = Column("n_prompts", "INTEGER", "the first so many prompts of the run", "prompts")
_PROMPT_ID = Column("prompt_id", "INTEGER", "place in the run, from 0")


def _errors(unit: str, name: str = "") -> tuple[Column, ...]:
    """The error of a number, and its interval: Student's t, 95 %, over prompts."""
    return (
        Column(f"{name}stderr", "DOUBLE", "standard error; null: not computed", unit),
        Column(f"{name}ci_low", "DOUBLE", "lower end of the 95 % interval", unit),
        Column(f"{name}ci_high", "DOUBLE", "upper end of the 95 % interval", unit),
    )


def _with_prefix(name: str, meaning: str, unit: str) -> tuple[Column, ...]:
    """An extreme over prefixes, the prefix it came from, and its error there."""
    where = Column(f"{name}_prefix", "INTEGER", f"prefix that {name} came from", "tokens")
    return Column(name, "DOUBLE", meaning, unit), where, *_errors(unit, f"{name}_")


def _with_errors(*columns: Column) -> tuple[Column, ...]:
    """Numbers, then the error of each."""
    errors = (error for c in columns for error in _errors(c.unit, f"{c.name}_"))
    return *columns, *errors


_N_QUARANTINED: Final = Column(
    "n_quarantined", "INTEGER", "of them set aside: no number is of those", "prompts"
)


RUNS: Final = Table(
    "runs",
    "one row per captured run",
    ("run",),
    (
        _RUN,
        Column("model", "VARCHAR", "hub id, folder or file of the model"),
        Column("revision", "VARCHAR", "exact revision of the weights"),
        Column("architecture", "VARCHAR", "class of the model"),
        Column("untrained_seed", "BIGINT", "seed of random weights; null: trained"),
        Column("n_parameters", "BIGINT", "size of the model", "parameters"),
        Column("n_blocks", "INTEGER", "depth of the model", "blocks"),
        Column("hidden_size", "INTEGER", "width of the hidden states", "dimensions"),
        Column("logits_width", "INTEGER", "V: width of the logits", "tokens"),
        Column("tokenizer_size", "INTEGER", "size of the tokenizer", "tokens"),
        Column("corpus", "VARCHAR", "where the prompts came from"),
        Column("prompt_set", "VARCHAR", "fingerprint of the texts, whatever the model"),
        Column("n_prompts", "INTEGER", "prompts captured", "prompts"),
        Column("n_tokens", "BIGINT", "tokens captured", "tokens"),
        _N_QUARANTINED,
        Column("not_finite_from", "VARCHAR", "first site with NaN or infinities; null: none"),
        Column("n_texts_set_aside", "INTEGER", "texts that became no prompt", "texts"),
        Column("context", "INTEGER", "prompts were cut to this length", "tokens"),
        Column("logit_positions", "VARCHAR", "all, or schedule: where logits were kept"),
        Column("compute_dtype", "VARCHAR", "number type of the forward pass"),
        Column("stored_dtype", "VARCHAR", "number type of the stored hidden states"),
        Column("backend", "VARCHAR", "what ran the model"),
        Column("plan_hash", "VARCHAR", "SHA-256 of the plan, in hex"),
        Column("plan", "JSON", "everything that could change a number"),
    ),
)

PROMPTS: Final = Table(
    "prompts",
    "one row per prompt of a run",
    ("run", "prompt_id"),
    (
        _RUN,
        _PROMPT_ID,
        Column("source_row", "BIGINT", "row of the corpus it came from, from 0"),
        Column("n_tokens", "INTEGER", "length after the cut", "tokens"),
        Column("truncated", "BOOLEAN", "whether the text was longer than the context"),
        Column("sha256", "VARCHAR", "SHA-256 of the token ids, in hex"),
    ),
)

SPECTRA: Final = Table(
    "spectra",
    "spectrum of the hidden states at one site and prefix",
    ("run", "site", "context", "prefix", "n_prompts"),
    (
        _RUN,
        _SITE,
        _CONTEXT,
        _PREFIX,
        _N_PROMPTS,
        Column("depth", "INTEGER", "0 at embed, k at block.k, B at final", "blocks"),
        _N_QUARANTINED,
        Column("n_tokens", "BIGINT", "N: rows in the covariance", "tokens"),
        Column("dim", "INTEGER", "d: width of the rows", "dimensions"),
        Column("rank_bound", "INTEGER", "min(N, d)", "dimensions"),
        *_with_errors(
            Column("participation_ratio", "DOUBLE", "(sum l)^2 / sum l^2", "dimensions"),
            Column("effective_rank", "DOUBLE", "exp of the spectrum's entropy", "dimensions"),
            Column("participation_ratio_norm", "DOUBLE", "over rank_bound", "share"),
            Column("effective_rank_norm", "DOUBLE", "over rank_bound", "share"),
            Column("top_share", "DOUBLE", "first eigenvalue over their sum", "share"),
        ),
    ),
)

ENTROPY: Final = Table(
    "entropy",
    "entropy of the next token after one prefix",
    ("run", "context", "prefix", "n_prompts"),
    (
        _RUN,
        _CONTEXT,
        _PREFIX,
        _N_PROMPTS,
        *_with_errors(
            Column("entropy", "DOUBLE", "mean over prompts", "nats"),
            Column("entropy_norm", "DOUBLE", "over ln V", "share"),
        ),
        _N_QUARANTINED,
        Column("short_prompts", "INTEGER", "prompts shorter than the prefix", "prompts"),
        Column("distinct_prefixes", "DOUBLE", "distinct token prefixes over prompts", "share"),
    ),
)

METRICS: Final = Table(
    "metrics",
    "declared metrics other than those of spectra: lpp-analyze metrics",
    ("run", "site", "context", "prefix", "n_prompts", "metric"),
    (
        _RUN,
        Column("site", "VARCHAR", "as in spectra; logits: made from token statistics"),
        _CONTEXT,
        _PREFIX,
        _N_PROMPTS,
        _N_QUARANTINED,
        Column("metric", "VARCHAR", "its declared name"),
        Column("unit", "VARCHAR", "of the value"),
        Column("value", "DOUBLE", "null: not defined there", "of the metric"),
        *_errors("of the metric"),
        Column("flags", "VARCHAR[]", "why the value may mislead; empty when none"),
    ),
)

_PROFILE: Final = (
    _RUN,
    _CONTEXT,
    _N_PROMPTS,
    _N_QUARANTINED,
    _SITE,
    Column("model", "VARCHAR", "hub id, folder or file of the model"),
    Column("corpus", "VARCHAR", "where the prompts came from"),
    Column("prompt_set", "VARCHAR", "compare profiles of one prompt set only"),
    Column("prefixes", "INTEGER[]", "the schedule the extremes are over", "tokens"),
    *_with_prefix("entropy_floor", "smallest entropy_norm", "share"),
    *_with_prefix("participation_ratio", "largest", "dimensions"),
    *_with_prefix("participation_ratio_norm", "largest", "share"),
    *_with_prefix("effective_rank", "largest", "dimensions"),
    *_with_prefix("effective_rank_norm", "largest", "share"),
    Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
)

PROFILES: Final = Table(
    "profiles",
    "profile of a run at `final`, or at its deepest site: extremes over prefixes",
    ("run", "context", "n_prompts"),
    _PROFILE,
)

SITE_PROFILES: Final = Table(
    "site_profiles",
    "the same extremes at every site",
    ("run", "context", "n_prompts", "site"),
    _PROFILE,
)

BENCHMARKS: Final = Table(
    "benchmarks",
    "scores of models on benchmarks, as their sources give them",
    ("model", "benchmark", "metric", "source"),
    (
        Column("model", "VARCHAR", "as the source names it"),
        Column("run", "VARCHAR", "the run it fits; null: none, or several"),
        Column("benchmark", "VARCHAR", "task"),
        Column("metric", "VARCHAR", "how it was scored"),
        Column("source", "VARCHAR", "what was scored alike: never compare across"),
        Column("kind", "VARCHAR", "what it was read from: lm-eval, leaderboard, csv, probe"),
        Column("value", "DOUBLE", "score", "of the metric"),
        Column("stderr", "DOUBLE", "its standard error", "of the metric"),
        Column("n", "BIGINT", "items scored", "items"),
        Column("matched", "VARCHAR", "how run was found: said, exact, name, none, several"),
        Column("match_note", "VARCHAR", "why there is no run; empty where there is one"),
    ),
)

CORRELATIONS: Final = Table(
    "correlations",
    "correlation of a profile metric with a benchmark, across models",
    ("profile_metric", "benchmark", "benchmark_metric", "source", "method", "controlled_for"),
    (
        Column("profile_metric", "VARCHAR", "column of site_profiles"),
        Column("benchmark", "VARCHAR", "task"),
        Column("benchmark_metric", "VARCHAR", "how it was scored"),
        Column("source", "VARCHAR", "where the scores came from"),
        Column("method", "VARCHAR", "pearson, spearman or rank_partial"),
        Column("controlled_for", "VARCHAR", "such as n_parameters; empty: nothing"),
        _SITE,
        _CONTEXT,
        _N_PROMPTS,
        Column("n_models", "INTEGER", "pairs of values", "models"),
        Column("coefficient", "DOUBLE", "-1 to 1; null: not computed, see flags"),
        Column("ci_low", "DOUBLE", "lower end of its 95 % interval"),
        Column("ci_high", "DOUBLE", "upper end of its 95 % interval"),
        Column("ci_method", "VARCHAR", "how the interval was made"),
        Column("p_value", "DOUBLE", "two-sided, uncorrected", "probability"),
        Column("p_method", "VARCHAR", "t distribution, or all permutations"),
        Column("q_value", "DOUBLE", "after Benjamini-Hochberg", "probability"),
        Column("family_size", "INTEGER", "tests corrected together: source, method", "tests"),
        Column("models", "VARCHAR[]", "runs that took part; published: the paper's"),
        Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
        Column("left_out", "VARCHAR[]", "who took no part, and why"),
    ),
)

PUBLISHED: Final = Table(
    "published",
    "the eight models of arXiv 2605.30018, as published: a reference, no run of this store",
    ("model",),
    (
        Column("model", "VARCHAR", "hub id of the model"),
        Column("source", "VARCHAR", "always published"),
        Column("n_parameters", "BIGINT", "nominal: as the model is named", "parameters"),
        Column("corpus", "VARCHAR", "where the prompts came from"),
        Column("n_prompts", "INTEGER", "prompts profiled", "prompts"),
        _CONTEXT,
        Column("prefixes", "INTEGER[]", "the schedule the extremes are over", "tokens"),
        Column("entropy_floor", "DOUBLE", "smallest entropy_norm", "share"),
        Column("participation_ratio_norm", "DOUBLE", "largest", "share"),
        Column("effective_rank_norm", "DOUBLE", "largest", "share"),
        Column("ifeval", "DOUBLE", "IFEval, Open LLM Leaderboard 2", "percent"),
        Column("bbh", "DOUBLE", "BBH, Open LLM Leaderboard 2", "percent"),
        Column("mmlu_pro", "DOUBLE", "MMLU-PRO, Open LLM Leaderboard 2", "percent"),
        Column("spc_f1", "DOUBLE", "symbolic patterns: token F1", "share"),
        Column("spc_exact_match", "DOUBLE", "symbolic patterns: exact match", "share"),
        Column("ar_accuracy", "DOUBLE", "ambiguous reasoning: right answers", "share"),
        Column("ar_overconfidence", "DOUBLE", "ambiguous reasoning", "share"),
        Column("ar_underconfidence", "DOUBLE", "ambiguous reasoning", "share"),
        Column("flags", "VARCHAR[]", "why a number of the profile may mislead"),
        Column("citation", "VARCHAR", "where the numbers were published"),
    ),
)

_VALUE_KEY: Final = (_RUN, _SITE, _CONTEXT, _N_PROMPTS)

SENSITIVITY: Final = Table(
    "sensitivity",
    "profiles over the grid of settings, one row per number",
    ("run", "site", "context", "n_prompts", "metric", "aggregation"),
    (
        *_VALUE_KEY,
        Column("metric", "VARCHAR", "such as effective_rank; entropy_norm is over ln V"),
        Column("aggregation", "VARCHAR", "over prefixes: min, max, mean or median"),
        Column("model", "VARCHAR", "hub id, folder or file of the model"),
        Column("corpus", "VARCHAR", "where the prompts came from"),
        Column("prompt_set", "VARCHAR", "fingerprint of the texts, whatever the model"),
        _N_QUARANTINED,
        Column("value", "DOUBLE", "null: see left_out, or flags", "of the metric"),
        Column("prefix", "INTEGER", "prefix the value came from; null: all", "tokens"),
        Column("stderr", "DOUBLE", "standard error over prompts", "of the metric"),
        Column("ci_low", "DOUBLE", "lower end of its 95 % interval", "of the metric"),
        Column("ci_high", "DOUBLE", "upper end of its 95 % interval", "of the metric"),
        Column("flags", "VARCHAR[]", "why value may mislead; empty when none"),
        Column("left_out", "VARCHAR", "why this run has no value here; null: it has"),
    ),
)

AGREEMENT: Final = Table(
    "agreement",
    "whether two settings put the models in the same order",
    ("metric", "setting_a", "setting_b"),
    (
        Column("metric", "VARCHAR", "as in sensitivity"),
        Column("setting_a", "VARCHAR", "corpus, site, context, n_prompts, aggregation"),
        Column("setting_b", "VARCHAR", "the same, of the other setting"),
        Column("differ", "VARCHAR[]", "in what the settings differ"),
        Column("n_models", "INTEGER", "models with a value in both", "models"),
        Column("kendall_tau", "DOUBLE", "tau-b: ties corrected for", "-1 to 1"),
        Column("spearman_rho", "DOUBLE", "mean ranks for ties", "-1 to 1"),
        Column("flags", "VARCHAR[]", "of any value in it; empty when none"),
        Column("reason", "VARCHAR", "why there is no coefficient; null: there is"),
    ),
)


def _rank(name: str, meaning: str) -> tuple[Column, ...]:
    """A rank in dimensions and over its bound."""
    return (
        Column(name, "DOUBLE", meaning, "dimensions"),
        Column(f"{name}_norm", "DOUBLE", "over rank_bound", "share"),
    )


def _sure_rank(name: str, meaning: str) -> tuple[Column, ...]:
    """The same with its error and interval, in dimensions."""
    return *_rank(name, meaning), *_errors("dimensions", f"{name}_")


LAYERS: Final = Table(
    "layers",
    "ranks of the whole context through the depth of the model",
    ("run", "site", "context", "n_prompts"),
    (
        *_VALUE_KEY,
        _N_QUARANTINED,
        Column("depth", "INTEGER", "0 at embed, k at block.k, B at final", "blocks"),
        Column("relative_depth", "DOUBLE", "depth over blocks of the model", "share"),
        Column("n_tokens", "BIGINT", "N: rows in the covariance", "tokens"),
        Column("rank_bound", "INTEGER", "min(N, d)", "dimensions"),
        *_sure_rank("participation_ratio", "(sum l)^2 / sum l^2"),
        *_sure_rank("effective_rank", "exp of the spectrum's entropy"),
        Column("top_share", "DOUBLE", "first eigenvalue over their sum", "share"),
        *_sure_rank("zscore_participation_ratio", "columns over their deviations"),
        *_sure_rank("zscore_effective_rank", "columns over their deviations"),
        *_rank("robust_participation_ratio", "widest five columns clipped"),
        *_rank("robust_effective_rank", "widest five columns clipped"),
        Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
    ),
)

HOURGLASS: Final = Table(
    "hourglass",
    "whether both ends of a model use more dimensions than its middle",
    ("run", "context", "n_prompts", "metric"),
    (
        _RUN,
        _CONTEXT,
        _N_PROMPTS,
        Column("metric", "VARCHAR", "a rank, in dimensions"),
        _N_QUARANTINED,
        Column("score", "DOUBLE", "above 0: narrow middle; null: see reason", "-1 to 1"),
        Column("first", "DOUBLE", "geometric mean over the first third", "dimensions"),
        Column("middle", "DOUBLE", "geometric mean over the middle third", "dimensions"),
        Column("last", "DOUBLE", "geometric mean over the last third", "dimensions"),
        Column("n_layers", "INTEGER", "layers in the means", "layers"),
        Column("n_collapsed", "INTEGER", "layers left out: PR within 1 % of 1", "layers"),
        Column("n_missing", "INTEGER", "layers left out: no rank", "layers"),
        Column("reason", "VARCHAR", "why there is no score; null: there is"),
    ),
)

CKA: Final = Table(
    "cka",
    "likeness of two sites of a run: linear CKA of the same tokens",
    ("run", "prefix", "n_prompts", "site", "other_site"),
    (
        _RUN,
        _PREFIX,
        _N_PROMPTS,
        _SITE,
        Column("other_site", "VARCHAR", "the deeper one"),
        _N_QUARANTINED,
        Column("depth", "INTEGER", "of site", "blocks"),
        Column("other_depth", "INTEGER", "of other_site", "blocks"),
        Column("n_tokens", "BIGINT", "N; unrelated rows have about d / (N + d)", "tokens"),
        Column("cka", "DOUBLE", "0 to 1; null without variance", "share"),
        Column("flags", "VARCHAR[]", "why it may mislead; empty when none"),
    ),
)

TABLES: Final[Mapping[str, Table]] = MappingProxyType(
    {
        table.name: table
        for table in (
            RUNS,
            PROMPTS,
            SPECTRA,
            ENTROPY,
            METRICS,
            PROFILES,
            SITE_PROFILES,
            BENCHMARKS,
            CORRELATIONS,
            PUBLISHED,
            SENSITIVITY,
            AGREEMENT,
            LAYERS,
            HOURGLASS,
            CKA,
        )
    }
)
"""Every table of `profiles.duckdb`, in the order they are made."""

TOKEN_STATS: Final = Table(
    "token_stats",
    "one row per captured token, read from the store",
    ("run", "prompt_id", "position"),
    (
        _RUN,
        _PROMPT_ID,
        Column("position", "INTEGER", "place in the prompt, from 0"),
        Column("token_id", "INTEGER", "the token at this position"),
        Column("entropy", "FLOAT", "of the next token", "nats"),
        Column("log_z", "FLOAT", "log-sum-exp of the logits", "nats"),
        Column("max_logprob", "FLOAT", "ln p of the likeliest token", "nats"),
        Column("margin", "FLOAT", "ln p(1st) - ln p(2nd)", "nats"),
        Column("next_logprob", "FLOAT", "ln p of the token that came next", "nats"),
        Column("next_rank", "INTEGER", "1: the next token had the largest logit"),
        Column("top1_id", "INTEGER", "the likeliest next token"),
        Column("varentropy", "FLOAT", "variance of -ln p; null in older stores", "nats^2"),
    ),
)
"""The view over every run's token statistics that `lpp.sql.connect` adds to the tables."""


def arrow_schema(table: Table | str) -> "pa.Schema":
    """The columns a table is built from, as a `pyarrow.Schema`; a name or a declaration."""
    import pyarrow as pa

    types = {
        "BOOLEAN": pa.bool_(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "VARCHAR": pa.string(),
        "JSON": pa.string(),
        "INTEGER[]": pa.list_(pa.int32()),
        "VARCHAR[]": pa.list_(pa.string()),
    }
    declared = TABLES[table] if isinstance(table, str) else table
    return pa.schema([(column.name, types[column.type]) for column in declared.columns])


def reference() -> str:
    """Every table with its columns, types, meanings and units: what `lpp-sql --schema` prints."""
    return "\n\n".join("\n".join(_reference(table)) for table in (*TABLES.values(), TOKEN_STATS))


def _reference(table: Table) -> Iterator[str]:
    yield f"{table.name}: {table.meaning}"
    yield f"  key: {', '.join(table.key)}"
    for column in table.columns:
        yield f"  {column.name:<31} {column.type:<9} {column.comment}"
