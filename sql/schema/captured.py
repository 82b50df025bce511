"""What was captured: runs, prompts, and the statistics of every token."""

from collections.abc import Collection
from typing import Final

from lpp.sql.schema.columns import N_QUARANTINED, PROMPT_ID, RUN, Column, Table

RUNS: Final = Table(
    "runs",
    "one row per captured run",
    "lpp-analyze profile STORE",
    ("run",),
    (
        RUN,
        Column("model", "VARCHAR", "hub id, folder or file of the model"),
        Column("revision", "VARCHAR", "exact revision of the weights"),
        Column("architecture", "VARCHAR", "class of the model"),
        Column("untrained_seed", "BIGINT", "seed of random weights; null: trained"),
        Column("n_parameters", "BIGINT", "size of the model", "parameters"),
        Column("n_blocks", "INTEGER", "depth of the model", "blocks"),
        Column("hidden_size", "INTEGER", "width of the hidden states", "dimensions"),
        Column("logits_width", "INTEGER", "V: width of the logits", "tokens"),
        Column("tokenizer_size", "INTEGER", "size of the tokenizer; null: no tokenizer", "tokens"),
        Column("corpus", "VARCHAR", "source of the prompts"),
        Column("prompt_set", "VARCHAR", "fingerprint of the prompt texts, equal for every model"),
        Column("n_prompts", "INTEGER", "prompts captured", "prompts"),
        Column("n_tokens", "BIGINT", "tokens captured", "tokens"),
        N_QUARANTINED,
        Column("not_finite_from", "VARCHAR", "first site with NaN or infinities; null: none"),
        Column("n_texts_set_aside", "INTEGER", "texts without a prompt", "texts"),
        Column("context", "INTEGER", "length to which prompts were cut", "tokens"),
        Column("logit_positions", "VARCHAR", "all, or schedule: positions with logit statistics"),
        Column("compute_dtype", "VARCHAR", "number type of the forward pass"),
        Column("stored_dtype", "VARCHAR", "number type of the stored hidden states"),
        Column("backend", "VARCHAR", "backend that ran the model"),
        Column("plan_hash", "VARCHAR", "SHA-256 of the plan, in hex"),
        Column("plan", "JSON", "all settings that can change a number"),
        Column("shards", "VARCHAR", "fingerprint of the committed shards"),
        Column("kernel", "VARCHAR", "version of the arithmetic that computed the numbers"),
        Column("series", "VARCHAR", "training run of which the model is a checkpoint; null: none"),
        Column("step", "BIGINT", "step of that training", "steps"),
        Column("name", "VARCHAR", "name chosen by the user, or model and its changes"),
        Column("task", "VARCHAR", "evaluated task whose requests are the prompts; null: a corpus"),
    ),
    added=frozenset({"series", "step", "name", "task"}),
)

PROMPTS: Final = Table(
    "prompts",
    "one row per prompt of a run",
    "lpp-analyze profile STORE",
    ("run", "prompt_id"),
    (
        RUN,
        PROMPT_ID,
        Column("source_row", "BIGINT", "row of the corpus, from 0"),
        Column("n_tokens", "INTEGER", "length after cutting at the context", "tokens"),
        Column("truncated", "BOOLEAN", "whether the text was longer than the context"),
        Column("sha256", "VARCHAR", "SHA-256 of the token ids, in hex"),
        Column("id", "VARCHAR", "id of the row in the corpus; null: none"),
        Column("text", "VARCHAR", "text; null unless captured with --keep-texts"),
        Column(
            "n_given",
            "INTEGER",
            "tokens before the model's own; null: it wrote none",
            "tokens",
        ),
        Column(
            "replay_difference",
            "DOUBLE",
            "largest difference between ln p at writing and at capture",
            "nats",
        ),
        Column("branch_of", "INTEGER", "prompt that it branches from; null: no branch"),
        Column("branch_at", "INTEGER", "first tokens of branch_of that precede it", "tokens"),
    ),
    added=frozenset({"id", "text", "n_given", "replay_difference", "branch_of", "branch_at"}),
    more="field of the corpus row",
)

WRITTEN: Final = Column("written", "BOOLEAN", "whether the model wrote the token: --continue")
"""True from position `prompts.n_given` on; computed, because no file of a shard holds it."""

IN_LOSS: Final = Column(
    "loss_mask", "BOOLEAN", "whether the assistant writes the token; null if the run has no mask"
)
"""From the column `token.loss_mask` of the prompts."""

TOKEN_STATS: Final = Table(
    "token_stats",
    "one row per captured token, read from the store",
    "lpp-capture run --store STORE",
    ("run", "prompt_id", "position"),
    (
        RUN,
        PROMPT_ID,
        Column("position", "INTEGER", "position in the prompt, from 0"),
        Column("token_id", "INTEGER", "the token at this position"),
        Column("entropy", "FLOAT", "entropy of the next token", "nats"),
        Column("log_z", "FLOAT", "log-sum-exp of the logits", "nats"),
        Column("max_logprob", "FLOAT", "ln p of the most likely token", "nats"),
        Column("margin", "FLOAT", "ln p(1st) - ln p(2nd)", "nats"),
        Column("next_logprob", "FLOAT", "ln p of the token that follows", "nats"),
        Column("next_rank", "INTEGER", "rank of the token that follows; 1: most likely"),
        Column("top1_id", "INTEGER", "most likely next token"),
        Column("varentropy", "FLOAT", "variance of -ln p", "nats^2"),
        WRITTEN,
        IN_LOSS,
    ),
)
"""The view over every run's token statistics that `lpp.sql.connect` adds to the tables."""

VOCABULARY: Final = Table(
    "vocabulary",
    "one row per run and token of its tokenizer, read from the store",
    "lpp-capture run --store STORE",
    ("run", "token_id"),
    (
        RUN,
        Column("token_id", "INTEGER", "matches token_id and top1_id of token_stats"),
        Column("token", "VARCHAR", "text of the token; U+FFFD for part of a character"),
        Column("bytes", "BLOB", "bytes of the token; null: none (a special token) or unknown"),
    ),
)
"""The view over the vocabularies of the runs' tokenizers that `lpp.sql.connect` adds."""


def field_columns(names: Collection[str]) -> dict[str, str]:
    """The column of `prompts` for each field of the corpora: the name of the field if it is free.

    A name that `prompts`, `token_stats` or `vocabulary` has, or that differs from an earlier one in
    case alone, gets the prefix `field.`, so that a join of these tables is never ambiguous.

    >>> field_columns(["label", "entropy"])
    {'entropy': 'field.entropy', 'label': 'label'}
    """
    taken = {
        column.name for table in (PROMPTS, TOKEN_STATS, VOCABULARY) for column in table.columns
    }
    columns = {}
    for name in sorted(names):
        column = name
        while column.casefold() in taken:  # DuckDB does not tell case apart
            column = f"field.{column}"
        taken.add(column.casefold())
        columns[name] = column
    return columns
