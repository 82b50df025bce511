"""The token statistics of a store as one lazy table."""

from collections.abc import Iterator, Mapping

import polars as pl

from lpp.analyze.runs.incomplete import warn_of_absent_tokens
from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.rows.token_files import TOKEN_COLUMNS, read_tokens
from lpp.analyze.tables.lazy import ROWS, LazySource, scan
from lpp.store import Run, open_store

_COLUMNS = pl.Schema([("run", pl.String()), *TOKEN_COLUMNS.items()])
"""`run`, then the columns of `tokens.arrow`."""


def scan_tokens(url: Url) -> pl.LazyFrame:
    """Statistics of every committed token of the store at `url`: columns as in `_COLUMNS`.

    entropy, log_z, max_logprob, margin and next_logprob are in nats, varentropy in nats^2.
    `next_rank` is 1 if the next token had the largest logit. Prompts that capture set aside have no
    rows. Filters on `run` and `prompt_id` decide which shards are read, one at a time; only needed
    columns are read. Warns about shards that are not committed. Raises FormatError if `url` is not
    a store or was altered.
    """
    warn_of_absent_tokens(open_store(url).runs.values())

    def keys(runs: Mapping[str, Run]) -> pl.DataFrame:
        frames = [pl.DataFrame(schema={**_KEYS, "__shard": pl.Int32})]
        for run in runs.values():
            lengths = pl.DataFrame(pl.from_arrow(run.prompts())).select(
                pl.lit(run.id).alias("run"), "prompt_id", pl.col("n_tokens").alias(ROWS)
            )
            included = ~pl.col("prompt_id").is_in(run.quarantined.tolist())
            frames += [
                lengths.slice(shard.first_prompt, shard.end_prompt - shard.first_prompt)
                .filter(included)
                .with_columns(pl.lit(shard.index, dtype=pl.Int32).alias("__shard"))
                for shard in run.shards
            ]
        return pl.concat(frames)

    def compute(
        runs: Mapping[str, Run], keys: pl.DataFrame, columns: frozenset[str]
    ) -> Iterator[pl.DataFrame]:
        names = [name for name in _COLUMNS.names() if name in columns and name != "run"]
        for part in keys.partition_by("run", maintain_order=True):
            run = runs[part.item(0, "run")]
            files = dict(
                zip((shard.index for shard in run.shards), run.tokens_files(), strict=True)
            )
            for shard in part["__shard"].unique(maintain_order=True):
                frame = read_tokens(files[shard], [*dict.fromkeys([*names, "prompt_id"])])
                included = ~pl.col("prompt_id").is_in(run.quarantined.tolist())
                yield frame.filter(included).with_columns(pl.lit(run.id).alias("run"))

    return scan(
        LazySource(
            name="LPP TOKENS",
            schema=_COLUMNS,
            opened=lambda: open_store(url).runs,
            keys=keys,
            compute=compute,
        )
    )


_KEYS = {"run": pl.String, "prompt_id": pl.Int32, ROWS: pl.Int32}
