"""The published reference: eight models' profiles, benchmarks and probes, for comparison.

The figures are those of *Latent Performance Profiling of Large Language Models* (arXiv
2605.30018; data under the MIT licence), in `published.csv`. A profile: Alpaca, 100 prompts,
context 150 in prefixes of 10 tokens of which the first is dropped, the final layer. Sizes are
nominal, what a model's name says. Probes are means over items, 10 shots.

Flags are those that the published tables tell, per prefix: `normaliser` where PR/r peaks at
L = 20 with r = N, though PR in dimensions goes on rising; `template` where no model of the same
tokenizer has more effective dimensions at the floor's prefix than that has positions, so that
most prompts agree there; `no_error` everywhere, since no errors were published. Of `short_text`
and `small_sample` they tell nothing.

They are the table `published`, and take part in nothing.
"""

from importlib import resources
from typing import Any, Final

import polars as pl
import pyarrow as pa

from lpp.sql.schema import arrow_schema

SOURCE: Final = "published"
"""Name of the source, of the table, and of the mark."""

CITATION: Final = "Latent Performance Profiling of Large Language Models, arXiv 2605.30018"

CORPUS: Final = "alpaca"
SITE: Final = "final"
CONTEXT: Final = 150
N_PROMPTS: Final = 100
PREFIXES: Final = tuple(range(20, CONTEXT + 1, 10))


def published_rows() -> list[dict[str, Any]]:
    """One row per model of `published.csv`: names, `flags` as a list, and numbers."""
    data = resources.files("lpp.analyze.scores").joinpath("published.csv").read_bytes()
    return pl.read_csv(data).with_columns(pl.col("flags").str.split(" ")).to_dicts()


def published_table() -> pa.Table:
    """The database's table `published`."""
    rows = pl.DataFrame(published_rows()).with_columns(
        source=pl.lit(SOURCE),
        n_parameters=(pl.col("nominal_size_b") * 1e9).round().cast(pl.Int64),
        corpus=pl.lit(CORPUS),
        n_prompts=N_PROMPTS,
        context=CONTEXT,
        prefixes=pl.lit(list(PREFIXES)),
        citation=pl.lit(CITATION),
    )
    schema = arrow_schema(SOURCE)
    return rows.select(schema.names).to_arrow().cast(schema)
