"""Spectra, entropies and metrics by prefix, and the profiles made of them."""

from typing import Final

from lpp.sql.schema.columns import (
    CLUSTER,
    CONTEXT,
    FIRST_POSITION,
    N_DUPLICATES,
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
    with_errors,
    with_prefix,
)

SPECTRA: Final = Table(
    "spectra",
    "spectrum of the hidden states at one site and prefix",
    "lpp-analyze profile STORE",
    ("run", "site", "context", "prefix", "n_prompts", "first_position"),
    (
        RUN,
        SITE,
        CONTEXT,
        PREFIX,
        N_PROMPTS,
        FIRST_POSITION,
        Column("depth", "INTEGER", "0 at embed, k at block.k, B at final", "blocks"),
        N_QUARANTINED,
        N_DUPLICATES,
        Column("n_tokens", "BIGINT", "N: rows in the covariance", "tokens"),
        Column("dim", "INTEGER", "d: width of the rows", "dimensions"),
        Column("rank_bound", "INTEGER", "min(N, d)", "dimensions"),
        N_SINKS,
        SINK_END,
        *with_errors(
            Column("participation_ratio", "DOUBLE", "(sum l)^2 / sum l^2", "dimensions"),
            Column("effective_rank", "DOUBLE", "exp of the spectrum's entropy", "dimensions"),
            Column("participation_ratio_norm", "DOUBLE", "over rank_bound", "share"),
            Column("effective_rank_norm", "DOUBLE", "over rank_bound", "share"),
            Column("top_share", "DOUBLE", "first eigenvalue over their sum", "share"),
        ),
        CLUSTER,
    ),
)

ENTROPY: Final = Table(
    "entropy",
    "entropy of the next token after one prefix",
    "lpp-analyze profile STORE",
    ("run", "context", "prefix", "n_prompts"),
    (
        RUN,
        CONTEXT,
        PREFIX,
        N_PROMPTS,
        *with_errors(
            Column("entropy", "DOUBLE", "mean over prompts", "nats"),
            Column("entropy_norm", "DOUBLE", "entropy over ln V", "share"),
        ),
        N_QUARANTINED,
        N_DUPLICATES,
        Column("short_prompts", "INTEGER", "prompts shorter than the prefix", "prompts"),
        Column("distinct_prefixes", "DOUBLE", "distinct beginnings over prompts", "share"),
        CLUSTER,
    ),
)

METRICS: Final = Table(
    "metrics",
    "declared metrics that are not in spectra: lpp-analyze metrics",
    "lpp-analyze profile STORE --metrics NAME",
    ("run", "site", "context", "prefix", "n_prompts", "first_position", "metric"),
    (
        RUN,
        Column("site", "VARCHAR", "as in spectra; logits: made from token statistics"),
        CONTEXT,
        PREFIX,
        N_PROMPTS,
        FIRST_POSITION,
        N_QUARANTINED,
        Column("metric", "VARCHAR", "its declared name"),
        Column("unit", "VARCHAR", "of the value"),
        Column("value", "DOUBLE", "null: not defined for these tokens", "of the metric"),
        *errors("of the metric"),
        Column("flags", "VARCHAR[]", "why the value may mislead; empty when none"),
        CLUSTER,
    ),
)

_PROFILE: Final = (
    RUN,
    CONTEXT,
    N_PROMPTS,
    FIRST_POSITION,
    N_QUARANTINED,
    SITE,
    Column("model", "VARCHAR", "hub id, folder or file of the model"),
    Column("corpus", "VARCHAR", "where the prompts came from"),
    PROMPT_SET,
    Column("prefixes", "INTEGER[]", "schedule that the extremes are taken over", "tokens"),
    *with_prefix("entropy_floor", "smallest entropy_norm, whatever first_position", "share"),
    Column("entropy_floor_bias", "DOUBLE", "bootstrap's bias of the least of means", "share"),
    *with_prefix("participation_ratio", "largest over the prefixes", "dimensions"),
    *with_prefix("participation_ratio_norm", "largest over the prefixes", "share"),
    *with_prefix("effective_rank", "largest over the prefixes", "dimensions"),
    *with_prefix("effective_rank_norm", "largest over the prefixes", "share"),
    Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
    CLUSTER,
)

PROFILES: Final = Table(
    "profiles",
    "profile of a run at `final`, or at its deepest site: extremes over prefixes",
    "lpp-analyze profile STORE",
    ("run", "context", "n_prompts", "first_position"),
    _PROFILE,
)

SITE_PROFILES: Final = Table(
    "site_profiles",
    "profile of a run at every site: extremes over prefixes",
    "lpp-analyze profile STORE",
    ("run", "context", "n_prompts", "first_position", "site"),
    _PROFILE,
)
