"""What changed from one run to another over the same tokens: predictions, sites, tokens."""

from typing import Final

from lpp.sql.schema.columns import (
    CLUSTER,
    FIRST_POSITION,
    N_PROMPTS,
    PROMPT_ID,
    RUN,
    SITE,
    Column,
    Table,
    errors,
    with_errors,
)

RUN_A: Final = Column("run_a", RUN.type, "id of the first run, which is compared with")
RUN_B: Final = Column("run_b", RUN.type, "id of the second run, which changed")
PAIR: Final = (RUN_A, RUN_B)

_SETTING: Final = (N_PROMPTS, FIRST_POSITION)

DRIFT_PREDICTIONS: Final = Table(
    "drift_predictions",
    "what changed in the predictions from the first run to the second",
    "lpp-analyze diff STORE RUN_A RUN_B",
    ("run_a", "run_b", "n_prompts", "first_position", "n_drawn", "number"),
    (
        *PAIR,
        *_SETTING,
        Column("n_drawn", "INTEGER", "size of the random sample; 0: all tokens", "tokens"),
        Column("number", "VARCHAR", "such as kl, flips or log_perplexity"),
        Column("unit", "VARCHAR", "of the number"),
        Column("mean", "DOUBLE", "over tokens", "of the number"),
        Column("median", "DOUBLE", "over tokens", "of the number"),
        Column("p99", "DOUBLE", "99th percentile over tokens", "of the number"),
        Column("maximum", "DOUBLE", "over tokens", "of the number"),
        *errors("of the number"),
        Column("n_tokens", "BIGINT", "tokens that have the number", "tokens"),
        CLUSTER,
    ),
)

DRIFT_SITES: Final = Table(
    "drift_sites",
    "how the rows of a site differ from the first run to the second",
    "lpp-analyze diff STORE RUN_A RUN_B",
    ("run_a", "run_b", "n_prompts", "first_position", "site"),
    (
        *PAIR,
        *_SETTING,
        SITE,
        Column("depth", "INTEGER", "0 at embed, k at block.k, B at final", "blocks"),
        Column("n_tokens", "BIGINT", "N: rows of each run", "tokens"),
        *with_errors(
            Column(
                "relative_distance",
                "DOUBLE",
                "mean of |second row - first row| / |first row|",
                "ratio",
            ),
            Column("cosine", "DOUBLE", "mean cosine of first and second row", "-1 to 1"),
            Column("cka", "DOUBLE", "linear CKA of all rows", "share"),
            Column("overlap", "DOUBLE", "of the ten leading eigenvectors", "share"),
            Column("participation_ratio", "DOUBLE", "second run - first run", "dimensions"),
            Column("effective_rank", "DOUBLE", "second run - first run", "dimensions"),
        ),
        Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
        CLUSTER,
    ),
)

DRIFT_TOKENS: Final = Table(
    "drift_tokens",
    "what changed after each token from the first run to the second",
    "lpp-analyze diff STORE RUN_A RUN_B",
    ("run_a", "run_b", "prompt_id", "position"),
    (
        *PAIR,
        PROMPT_ID,
        Column("position", "INTEGER", "position in the prompt, from 0"),
        Column("token_id", "INTEGER", "the token at this position"),
        Column("kl", "DOUBLE", "KL(first || second); null: no logits", "nats"),
        Column("kl_reverse", "DOUBLE", "KL(second || first)", "nats"),
        Column("js", "DOUBLE", "Jensen-Shannon divergence", "nats"),
        Column("tv", "DOUBLE", "total variation", "share"),
        Column("flip", "BOOLEAN", "whether the likeliest next token differs"),
        Column("flip_tie", "BOOLEAN", "whether the two likeliest tokens tie in either run"),
        Column("top10", "DOUBLE", "of the ten likeliest tokens, those in common", "share"),
        Column("top10_tie", "BOOLEAN", "whether the 10th and 11th token tie in either run"),
        Column(
            "next_logprob_a", "FLOAT", "ln p of the token that follows, in the first run", "nats"
        ),
        Column(
            "next_logprob_b", "FLOAT", "ln p of the token that follows, in the second run", "nats"
        ),
    ),
)
