"""Aggregation over prefixes, by hand and from the published tables."""

from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lpp.analyze.tables.profile import AGGREGATIONS, aggregate
from lpp.store.errors import InputError

PUBLISHED = {
    "prefix_tokens": "prefix",
    "mean_next_token_entropy": "entropy_norm",
    "participation_ratio": "participation_ratio_norm",
    "effective_rank": "effective_rank_norm",
}
SIZES = ("0.5B", "1.5B", "3B", "7B", "14B")
SHORT = {
    "meta-llama/Meta-Llama-3-8B-Instruct": "Llama-8B",
    "meta-llama/Llama-3.2-3B-Instruct": "Llama-3B",
    "mistralai/Mistral-7B-Instruct-v0.2": "Mistral-7B",
    **{f"Qwen/Qwen2.5-{size}-Instruct": f"Qwen-{size}" for size in SIZES},
}
METRICS = ["entropy_norm", "participation_ratio_norm", "effective_rank_norm"]


def table() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "run": ["b", "b", "b", "a", "a"],
            "prefix": [30, 10, 20, 10, 20],
            "entropy": [0.5, 0.7, 0.2, 0.9, 0.8],
            "participation_ratio": [3.0, 4.0, 9.0, 1.5, 1.25],
            "effective_rank": [5.0, 8.0, 8.0, 2.5, 2.75],
        }
    )


def test_extremes_carry_the_prefix_they_came_from() -> None:
    expected = pl.DataFrame(
        {
            "run": ["b", "a"],
            "prefixes": [[10, 20, 30], [10, 20]],
            "entropy": [0.2, 0.8],
            "entropy_prefix": [20, 20],
            "participation_ratio": [9.0, 1.5],
            "participation_ratio_prefix": [20, 10],
            "effective_rank": [8.0, 2.75],
            "effective_rank_prefix": [10, 20],  # a tie goes to the shortest prefix
        }
    )
    assert_frame_equal(aggregate(table(), ["run"]), expected)


@pytest.mark.parametrize(
    ("how", "entropy"), [("min", 0.2), ("max", 0.7), ("mean", 1.4 / 3), ("median", 0.5)]
)
def test_every_aggregation(how: str, entropy: float) -> None:
    assert how in AGGREGATIONS
    row = aggregate(table(), ["run"], entropy=how, ranks=how).row(0, named=True)
    assert row["entropy"] == pytest.approx(entropy)
    assert (row["entropy_prefix"] is None) == (how in {"mean", "median"})
    assert row["effective_rank"] == {"min": 5.0, "max": 8.0, "mean": 7.0, "median": 8.0}[how]


def test_dropped_prefixes_take_no_part() -> None:
    row = aggregate(table(), ["run"], drop_prefixes=[20]).row(0, named=True)
    assert (row["prefixes"], row["entropy"], row["participation_ratio"]) == ([10, 30], 0.5, 4.0)


def test_dropping_every_prefix_of_a_group_is_refused() -> None:
    with pytest.raises(InputError, match="there is 10, 20, 30"):
        aggregate(table(), ["run"], drop_prefixes=[10, 20])  # run b keeps 30, run a keeps nothing


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_an_incomplete_schedule_has_no_profile(missing: float | None) -> None:
    frame = table().with_columns(
        entropy=pl.when(pl.col("prefix") == 30).then(missing).otherwise(pl.col("entropy"))
    )
    rows = aggregate(frame, ["run"])
    assert rows["entropy"].to_list() == [None, 0.8]
    assert rows["entropy_prefix"].to_list() == [None, 20]
    assert rows["effective_rank"].to_list() == [8.0, 2.75]


def test_the_published_profiles(paper: Path) -> None:
    """`LPP.csv`, prefix 10 dropped, is `lpp_lpp_scores.csv`."""
    source = pl.read_csv(paper / "LPP.csv").rename(PUBLISHED)
    ours = aggregate(source, ["model_id"], drop_prefixes=[10]).select(
        pl.col("model_id").replace_strict(SHORT), *METRICS
    )
    theirs = pl.read_csv(paper / "lpp_lpp_scores.csv")
    theirs.columns = ours.columns
    assert len(theirs) == 8
    assert_frame_equal(
        ours, theirs, check_row_order=False, check_exact=False, rel_tol=0, abs_tol=1e-12
    )


def half_a_digit(printed: str) -> float:
    """Half a unit of the last digit of a number as printed, `0.083` or `2.18E-05`."""
    return 0.5 * 10.0 ** int(Decimal(printed).as_tuple().exponent)


def test_the_published_profiles_of_four_contexts(paper: Path) -> None:
    """`LPP_analysis1.csv`, every prefix, is `LPP_analysis1_derived.csv` to the digits printed."""
    source = pl.read_csv(paper / "LPP_analysis1.csv").rename(PUBLISHED)
    ours = aggregate(source, ["model_id", "context_length"]).select(
        pl.col("model_id").replace_strict(SHORT), pl.col("context_length").cast(str), *METRICS
    )
    values = {row[:2]: row[2:] for row in ours.rows()}
    printed = pl.read_csv(paper / "LPP_analysis1_derived.csv", infer_schema=False).rows()
    assert len(printed) == len(values) == 32
    for model, context, *numbers in printed:
        for number, value in zip(numbers, values[model, context], strict=True):
            assert abs(float(number) - value) <= 1.001 * half_a_digit(number)
