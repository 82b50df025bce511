"""Studies across settings, layers and sites."""

from typing import Final

from lpp.sql.schema.columns import (
    CONTEXT,
    FIRST_POSITION,
    N_PROMPTS,
    N_QUARANTINED,
    N_SINKS,
    PREFIX,
    PROMPT_SET,
    RUN,
    SINK_END,
    SITE,
    Column,
    Table,
    errors,
)

_VALUE_KEY: Final = (RUN, SITE, CONTEXT, N_PROMPTS)

SENSITIVITY: Final = Table(
    "sensitivity",
    "profiles over the grid of settings, one row per number",
    "lpp-analyze sensitivity STORE",
    ("run", "site", "context", "n_prompts", "metric", "aggregation"),
    (
        *_VALUE_KEY,
        Column("metric", "VARCHAR", "such as effective_rank; entropy_norm is over ln V"),
        Column("aggregation", "VARCHAR", "over prefixes: min, max, mean or median"),
        Column("model", "VARCHAR", "hub id, folder or file of the model"),
        Column("corpus", "VARCHAR", "where the prompts came from"),
        PROMPT_SET,
        N_QUARANTINED,
        Column("value", "DOUBLE", "null: see left_out, or flags", "of the metric"),
        Column("prefix", "INTEGER", "prefix the value came from; null: all", "tokens"),
        Column("stderr", "DOUBLE", "standard error over prompts", "of the metric"),
        Column("ci_low", "DOUBLE", "lower end of its 95 % interval", "of the metric"),
        Column("ci_high", "DOUBLE", "upper end of its 95 % interval", "of the metric"),
        Column("flags", "VARCHAR[]", "why value may mislead; empty when none"),
        Column("left_out", "VARCHAR", "why this run has no value here; null: it has one"),
    ),
)

AGREEMENT: Final = Table(
    "agreement",
    "whether two settings put the models in the same order",
    "lpp-analyze sensitivity STORE",
    ("metric", "setting_a", "setting_b"),
    (
        Column("metric", "VARCHAR", "as in sensitivity"),
        Column("setting_a", "VARCHAR", "corpus, site, context, n_prompts, aggregation"),
        Column("setting_b", "VARCHAR", "the other setting, in the same form"),
        Column("differ", "VARCHAR[]", "names of what differs between the settings"),
        Column("n_models", "INTEGER", "models with a value in both", "models"),
        Column("kendall_tau", "DOUBLE", "tau-b: ties corrected for", "-1 to 1"),
        Column("spearman_rho", "DOUBLE", "mean ranks for ties", "-1 to 1"),
        Column("flags", "VARCHAR[]", "flags of any value used; empty when none"),
        Column("reason", "VARCHAR", "why there is no coefficient; null: there is one"),
    ),
)


def _rank(name: str, meaning: str) -> tuple[Column, ...]:
    """Columns for a rank in dimensions and divided by its bound."""
    return (
        Column(name, "DOUBLE", meaning, "dimensions"),
        Column(f"{name}_norm", "DOUBLE", "over rank_bound", "share"),
    )


def _sure_rank(name: str, meaning: str) -> tuple[Column, ...]:
    """Columns of `_rank`, and those of its error and interval in dimensions."""
    return *_rank(name, meaning), *errors("dimensions", f"{name}_")


LAYERS: Final = Table(
    "layers",
    "ranks of the whole context through the depth of the model",
    "lpp-analyze layers STORE",
    ("run", "site", "context", "n_prompts", "first_position"),
    (
        *_VALUE_KEY,
        FIRST_POSITION,
        N_QUARANTINED,
        Column("depth", "INTEGER", "0 at embed, k at block.k, B at final", "blocks"),
        Column("relative_depth", "DOUBLE", "depth over blocks of the model", "share"),
        Column("n_tokens", "BIGINT", "N: rows in the covariance", "tokens"),
        Column("rank_bound", "INTEGER", "min(N, d)", "dimensions"),
        N_SINKS,
        SINK_END,
        *_sure_rank("participation_ratio", "(sum l)^2 / sum l^2"),
        *_sure_rank("effective_rank", "exp of the spectrum's entropy"),
        Column("top_share", "DOUBLE", "first eigenvalue over their sum", "share"),
        *_sure_rank("zscore_participation_ratio", "after z-scoring every column"),
        *_sure_rank("zscore_effective_rank", "after z-scoring every column"),
        *_rank("robust_participation_ratio", "after clipping the five widest columns"),
        *_rank("robust_effective_rank", "after clipping the five widest columns"),
        Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
    ),
)

HOURGLASS: Final = Table(
    "hourglass",
    "whether both ends of a model use more dimensions than its middle",
    "lpp-analyze layers STORE",
    ("run", "context", "n_prompts", "first_position", "metric"),
    (
        RUN,
        CONTEXT,
        N_PROMPTS,
        FIRST_POSITION,
        Column("metric", "VARCHAR", "a rank, in dimensions"),
        N_QUARANTINED,
        Column("score", "DOUBLE", "above 0: narrow middle; null: see reason", "-1 to 1"),
        Column("first", "DOUBLE", "geometric mean over the first third", "dimensions"),
        Column("middle", "DOUBLE", "geometric mean over the middle third", "dimensions"),
        Column("last", "DOUBLE", "geometric mean over the last third", "dimensions"),
        Column("n_layers", "INTEGER", "layers in the means", "layers"),
        Column("n_collapsed", "INTEGER", "layers left out: PR within 1 % of 1", "layers"),
        Column("n_missing", "INTEGER", "layers left out: no rank", "layers"),
        Column("reason", "VARCHAR", "why there is no score; null: there is one"),
    ),
)

CKA: Final = Table(
    "cka",
    "similarity of two sites of a run: linear CKA over the same tokens",
    "lpp-analyze cka STORE",
    ("run", "first_position", "prefix", "n_prompts", "site", "other_site"),
    (
        RUN,
        FIRST_POSITION,
        PREFIX,
        N_PROMPTS,
        SITE,
        Column("other_site", "VARCHAR", "the deeper one"),
        N_QUARANTINED,
        Column("depth", "INTEGER", "of site", "blocks"),
        Column("other_depth", "INTEGER", "of other_site", "blocks"),
        Column("n_tokens", "BIGINT", "N; for unrelated rows cka is about d / (N + d)", "tokens"),
        Column("cka", "DOUBLE", "0 to 1; null without variance", "share"),
        Column("flags", "VARCHAR[]", "why cka may mislead; empty when none"),
    ),
)
