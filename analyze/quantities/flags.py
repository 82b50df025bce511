"""Flags: warnings about numbers that are correct and easy to misread.

Each flag is declared once and applied to every table, and each names a trap found in published
tables. A flag is an expression over `FACTS`: columns that a table has or is joined with (`facts`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import polars as pl

COLLAPSED_RATIO: Final = 1.01
"""A participation ratio up to here: one direction holds nearly all variance, so PR/r is 1/r."""

SHORT_SHARE: Final = 0.1
"""If a larger share of prompts ends before the prefix, rows repeat and the entropy is that at the
end of texts."""

DISTINCT_SHARE: Final = 0.5
"""If the share of distinct prefixes is smaller, most prompts begin alike, as in boilerplate."""

ERROR_SHARE: Final = 0.2
"""If a standard error is a larger share of its value, the interval spans over half the value."""

ZERO_SHARE: Final = 1e-9
"""A standard error up to this share of its value is rounding: all groups give the same number."""

FACTS: Final = pl.Schema(
    {
        "value": pl.Float64,
        "stderr": pl.Float64,
        "n_prompts": pl.Int32,
        # different sets of prompts among the runs shown side by side
        "n_prompt_sets": pl.UInt32,
        "n_quarantined": pl.Int32,
        "n_duplicates": pl.Int32,
        # different prefixes behind the two numbers of a difference
        "n_prefixes": pl.UInt32,
        # at the prefix of the number
        "short_prompts": pl.Int32,
        "distinct_prefixes": pl.Float64,
        # participation ratio of the matrix that the number describes
        "ratio": pl.Float64,
        # ranks that were requested and are null
        "missing_ranks": pl.UInt32,
        # whether the number is divided by min(N, d), and the prefix where it peaks undivided
        "normalised": pl.Boolean,
        "prefix": pl.Int32,
        "rank_prefix": pl.Int32,
        "n_tokens": pl.Int64,
        "dim": pl.Int32,
        "n_sinks": pl.Int32,
        # for a number that comes from the logits
        "logits_width": pl.Int32,
        "tokenizer_size": pl.Int32,
        # whether the number comes from rows that are stored with fewer digits than computed
        "lossy": pl.Boolean,
    }
)
"""The facts about a number that flags use; null if a fact does not apply to the number."""


@dataclass(frozen=True, slots=True)
class DeclaredFlag:
    """One warning: its name, its meaning and the condition under which it is raised."""

    name: str
    meaning: str
    holds: pl.Expr
    """Over `FACTS`. Null: the flag does not hold."""


FLAGS: Final = (
    DeclaredFlag(
        "collapsed",
        "the participation ratio is within 1 % of 1: one direction holds nearly all variance",
        pl.col("ratio").is_between(0, COLLAPSED_RATIO, closed="right"),  # 0: all rows are equal
    ),
    DeclaredFlag(
        "different_prefixes",
        "two runs have their extremes at different prefixes: compared at the first run's prefix",
        pl.col("n_prefixes") > 1,
    ),
    DeclaredFlag(
        "different_prompts",
        "the runs shown read different texts (see prompt_set)",
        pl.col("n_prompt_sets") > 1,
    ),
    DeclaredFlag(
        "duplicates",
        "some prompts occur more than once: the sample is smaller, and errors are too small",
        pl.col("n_duplicates") > 0,
    ),
    DeclaredFlag(
        "lossy",
        "hidden states were stored in 8 bits (--stored-dtype float8_e4m3)",
        pl.col("lossy"),
    ),
    DeclaredFlag(
        "no_error",
        "a number has no standard error, so small_sample cannot be decided",
        (pl.col("n_prompts") >= 2) & pl.col("value").is_not_null() & pl.col("stderr").is_null(),
    ),
    DeclaredFlag(
        "normaliser",
        "a normalised rank is divided by N, not d, or peaks at another prefix than the rank",
        pl.col("normalised")
        & ((pl.col("n_tokens") < pl.col("dim")) | (pl.col("prefix") != pl.col("rank_prefix"))),
    ),
    DeclaredFlag(
        "not_finite",
        "ranks are missing: rows contain infinities or NaN, or the log names another cause",
        pl.col("missing_ranks") > 0,
    ),
    DeclaredFlag(
        "padded_vocab",
        "the model has more logits than its tokenizer has tokens, which changes ln V",
        pl.col("logits_width") > pl.col("tokenizer_size"),
    ),
    DeclaredFlag(
        "quarantined",
        "prompts were set aside: values not finite, or out of memory (see not_finite_from)",
        pl.col("n_quarantined") > 0,
    ),
    DeclaredFlag(
        "short_text",
        "over 10 % of the prompts are shorter than the prefix of a number",
        pl.col("short_prompts") > SHORT_SHARE * pl.col("n_prompts"),
    ),
    DeclaredFlag(
        "sink",
        "hidden states include attention sinks, first positions with huge norms: --skip-first "
        "leaves them out (see sink_end)",
        pl.col("n_sinks") > 0,
    ),
    DeclaredFlag(
        "small_sample",
        "one prompt, or a standard error above a fifth of its value: ranks grow with the sample "
        "even without this flag",
        (pl.col("n_prompts") < 2) | (pl.col("stderr") > ERROR_SHARE * pl.col("value").abs()),
    ),
    DeclaredFlag(
        "template",
        "most prompts begin with the same tokens: fewer than half of the prefixes differ",
        pl.col("distinct_prefixes") < DISTINCT_SHARE,
    ),
    DeclaredFlag(
        "zero_error",
        "a standard error is 0: every group of prompts gives the same number, so the sample is "
        "degenerate and the error means nothing",
        (pl.col("n_prompts") >= 2) & (pl.col("stderr") <= ZERO_SHARE * pl.col("value").abs()),
    ),
)
"""Every flag of a number, by name."""

MEANING: Final[Mapping[str, str]] = MappingProxyType({flag.name: flag.meaning for flag in FLAGS})


def flags_of(facts: pl.DataFrame) -> pl.Series:
    """(rows,) The sorted names of the flags of each row of `facts`.

    facts: any of `FACTS`, and other columns; a missing fact is null.

    >>> flags_of(pl.DataFrame({"n_prompts": [1, 12], "short_prompts": [0, 2]})).to_list()
    [['small_sample'], ['short_text']]
    """
    absent = {name: pl.lit(None, FACTS[name]) for name in FACTS.keys() - {*facts.columns}}
    names = (pl.when(flag.holds).then(pl.lit(flag.name)) for flag in FLAGS)
    return (
        facts.with_columns(**absent).select(flags=pl.concat_list(names).list.drop_nulls())
    ).to_series()


def flags_of_any(several: Iterable[pl.DataFrame]) -> pl.Series:
    """The flags of rows that hold several numbers: `several` has the facts of each number."""
    lists = [flags_of(facts).alias(str(k)) for k, facts in enumerate(several)]
    union = pl.concat_list(pl.all()).list.unique().list.sort()
    return pl.DataFrame(lists).select(flags=union).to_series()
