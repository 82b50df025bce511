"""How far the captured pass differs from the generation of a continuation, SPEC.md section 5.

A continuation was written token by token, with a cache, and captured in one pass afterwards. Both
compute the same numbers in another order, so they differ in their last bits. If they differ by
more, the capture is not what the model did.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lpp.store.format.keys import TOKENS_KEY
from lpp.store.format.prompt_columns import CONTINUATION_COLUMNS
from lpp.store.format.tables import TOKENS_SCHEMA
from lpp.store.runs.read import Run

WRITTEN_TOKENS_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("written_logprob", pa.float32(), nullable=False),
        pa.field("replay_logprob", pa.float32()),
        pa.field("replay_rank", pa.int32()),
    ]
)
"""One row per token that the model wrote: ln p when it was written, and in the captured pass."""

_USED = pa.schema(
    [TOKENS_SCHEMA.field(name) for name in ("prompt_id", "position", "next_logprob", "next_rank")]
)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The tokens that a model wrote, compared between the two passes."""

    tokens: int
    """Tokens that are compared: finite in both passes."""
    largest: float
    """Largest difference of ln p, nats."""
    mean: float
    """Mean difference, without its sign, nats."""
    most_likely: int
    """Tokens that are the most likely ones in the captured pass."""

    def __str__(self) -> str:
        return (
            f"ln p of {self.tokens:,} written tokens within {self.largest:.1e} nats of generation "
            f"(mean {self.mean:.1e}); {self.most_likely:,} are the replay's most likely token"
        )


def written_tokens(run: Run) -> pa.Table:
    """Every token that the model wrote, of committed shards, `WRITTEN_TOKENS_SCHEMA`, in order.

    `replay_*` are null where the plan has no statistics, and for prompts that were set aside. Empty
    for a run without a continuation.
    """
    tables = [WRITTEN_TOKENS_SCHEMA.empty_table()]
    if run.plan.continuation is not None:
        prompts = run.prompts(*CONTINUATION_COLUMNS)
        given, lengths = (prompts[name].to_numpy() for name in ("n_given", "n_tokens"))
        run.tokens_files()  # from a bucket all at once
        for shard in run.shards:
            tokens = shard.table(TOKENS_KEY, _USED, rows=shard.rows)
            prompt, position = (tokens[name].to_numpy() for name in ("prompt_id", "position"))
            # a row's statistics are about the token at the next position
            written = (position + 1 >= given[prompt]) & (position + 1 < lengths[prompt])
            stats = tokens.filter(pa.array(written))
            of_shard = prompts.slice(shard.first_prompt, shard.end_prompt - shard.first_prompt)
            columns = [
                stats["prompt_id"],
                pa.array(position[written] + np.int32(1)),
                of_shard["written_logprob"].combine_chunks().flatten(),
                stats["next_logprob"],
                stats["next_rank"],
            ]
            tables.append(pa.Table.from_arrays(columns, schema=WRITTEN_TOKENS_SCHEMA))
    return pa.concat_tables(tables)


def replay(run: Run) -> Replay | None:
    """How far the captured pass differs from generation; None if no token can be compared."""
    table = written_tokens(run)
    then, now, rank = (
        table[name].to_numpy() for name in ("written_logprob", "replay_logprob", "replay_rank")
    )
    difference = np.abs(now.astype(np.float64) - then)
    compared = np.isfinite(difference)
    if not compared.any():
        return None
    return Replay(
        tokens=int(compared.sum()),
        largest=float(difference[compared].max()),
        mean=float(difference[compared].mean()),
        most_likely=int((rank[compared] == 1).sum()),
    )
