"""How KL spreads over tokens: four bins to a decade."""

from typing import Final

import polars as pl

PER_DECADE: Final = 4
FIRST: Final = -9 * PER_DECADE
"""The bin from 1e-9 nats on, which rounding alone reaches."""
LAST: Final = 4 * PER_DECADE
"""The bin from 1e4 nats on."""


def kl_histogram(tokens: pl.DataFrame) -> pl.DataFrame:
    """Tokens by KL: a row for each bin from the lowest to the highest that holds a token.

    tokens: of `token_drift`. Columns kl_from and kl_below, ends of the bin in nats, null for the
    tokens of a KL of 0; n_tokens; share, of all tokens with a KL. The first and the last bin also
    hold what lies beyond them.
    """
    bin_number = (PER_DECADE * pl.col("kl").log10()).floor().clip(FIRST, LAST).cast(pl.Int32)
    bins = tokens.drop_nulls("kl").select(bin=pl.when(pl.col("kl") > 0).then(bin_number))
    counts = bins.group_by("bin").len("n_tokens")
    ends = bins.select(low=pl.col("bin").min(), high=pl.col("bin").max()).row(0)
    all_bins = [] if ends[0] is None else [*range(ends[0], ends[1] + 1)]
    all_bins += [None] * bins["bin"].has_nulls()
    return (
        pl.DataFrame({"bin": all_bins}, schema={"bin": pl.Int32})
        .join(counts, on="bin", how="left", nulls_equal=True, maintain_order="left")
        .select(
            kl_from=10 ** (pl.col("bin") / PER_DECADE),
            kl_below=10 ** ((pl.col("bin") + 1) / PER_DECADE),
            n_tokens=pl.col("n_tokens").fill_null(0).cast(pl.Int64),
            share=pl.col("n_tokens").fill_null(0) / pl.col("n_tokens").sum(),
        )
    )
