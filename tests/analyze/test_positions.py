"""Drift by position: bands that double, against a plain loop over prompts."""

import itertools
import math

import numpy as np
import polars as pl
import pytest

from lpp.analyze.drift.predictions import TOKEN_DRIFT
from lpp.analyze.drift.summaries import BANDS, band_edges, by_position
from lpp.store.format.schedule import group_boundaries

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14, 17)


def tokens(lengths: tuple[int, ...] = LENGTHS, first: int = 0) -> pl.DataFrame:
    """Tokens of some prompts with random KL and flips, in no order."""
    generator = np.random.default_rng(7)
    keys = [(p, at) for p, length in enumerate(lengths) for at in range(first, length)]
    frame = pl.DataFrame(keys, schema=["prompt_id", "position"], orient="row").with_columns(
        kl=pl.Series(generator.exponential(size=len(keys))),
        flip=pl.Series(generator.random(len(keys)) < 0.3),
    )
    absent = [pl.lit(None).alias(name) for name in TOKEN_DRIFT.names() if name not in frame.columns]
    return (
        frame.with_columns(absent)
        .select(TOKEN_DRIFT.names())
        .cast(TOKEN_DRIFT)
        .sample(fraction=1, shuffle=True, seed=1)
    )


def plain(prompts: dict[int, list[float]]) -> tuple[float, float]:
    """Mean over tokens, and its error from leaving out ten groups of neighbouring prompts."""
    lists = [prompts[prompt] for prompt in sorted(prompts)]
    mean = math.fsum(itertools.chain(*lists)) / sum(map(len, lists))
    without = []
    for start, end in itertools.pairwise(group_boundaries(len(lists))):
        rest = list(itertools.chain(*lists[:start], *lists[end:]))
        without.append(math.fsum(rest) / len(rest))
    middle = math.fsum(without) / len(without)
    squares = math.fsum((part - middle) ** 2 for part in without)
    return mean, math.sqrt((len(without) - 1) / len(without) * squares)


@pytest.mark.parametrize(
    ("first", "edges"), [(0, [0, 1, 2, 4, 8, 16, 20]), (3, [3, 4, 8, 16, 20]), (4, [4, 8, 16, 20])]
)
def test_every_band_is_that_of_a_plain_loop(first: int, edges: list[int]) -> None:
    frame = tokens(first=first)
    found = by_position(frame)
    assert found.schema == BANDS
    assert [*zip(found["first"], found["end"], strict=True)] == [*itertools.pairwise(edges)]
    for band in found.iter_rows(named=True):
        kl: dict[int, list[float]] = {}
        flips: dict[int, list[float]] = {}
        for token in frame.iter_rows(named=True):
            if band["first"] <= token["position"] < band["end"]:
                kl.setdefault(token["prompt_id"], []).append(token["kl"])
                flips.setdefault(token["prompt_id"], []).append(float(token["flip"]))
        assert band["n_tokens"] == sum(map(len, kl.values()))
        assert (band["kl"], band["kl_stderr"]) == pytest.approx(plain(kl), rel=1e-12)
        assert (band["flips"], band["flips_stderr"]) == pytest.approx(plain(flips), rel=1e-12)
        assert band["kl_ci_low"] < band["kl"] < band["kl_ci_high"]
        assert 0 <= band["flips_ci_low"] <= band["flips"] <= band["flips_ci_high"] <= 1
    assert found["n_tokens"].sum() == len(frame)


def test_bands_make_up_the_whole() -> None:
    frame = tokens()
    found = by_position(frame)
    whole = (found["kl"] * found["n_tokens"]).sum() / len(frame)
    assert whole == pytest.approx(frame["kl"].mean(), rel=1e-12)


def test_by_hand() -> None:
    frame = (
        tokens((4, 4))
        .sort("prompt_id", "position")
        .with_columns(
            kl=pl.Series([1.0, 2.0, 3.0, 5.0, 3.0, 2.0, 5.0, 7.0]),
            flip=pl.Series([True, False, True, True, False, False, False, False]),
        )
    )
    found = by_position(frame)
    assert found["kl"].to_list() == [2.0, 2.0, 5.0]
    assert found["flips"].to_list() == [0.5, 0.0, 0.5]
    assert found["kl_stderr"].to_list() == [1.0, 0.0, 1.0]  # sqrt(1/2 (1 + 1)), and 4 beside 6


def test_one_token_has_no_error() -> None:
    found = by_position(tokens((6,), first=5))
    assert found.rows()[0][:3] == (5, 6, 1)
    assert found["kl"].is_not_null().all()
    assert found["kl_stderr"].is_null().all()
    assert len(found) == 1


def test_a_band_without_a_token_has_no_row() -> None:
    found = by_position(tokens().filter((pl.col("position") < 2) | (pl.col("position") >= 8)))
    assert found["first"].to_list() == [0, 1, 8, 16]


def test_without_logits_there_are_flips_alone() -> None:
    found = by_position(tokens().with_columns(kl=pl.lit(None, pl.Float64)))
    assert found["kl"].is_null().all()
    assert found["kl_stderr"].is_null().all()
    assert found["flips"].is_not_null().all()


def test_no_token_has_no_band() -> None:
    assert by_position(tokens().clear()).equals(pl.DataFrame(schema=BANDS))


def test_bands_double_up_to_long_contexts() -> None:
    edges = band_edges(0, 8192)
    assert edges == [0, *(1 << k for k in range(14))]
    assert band_edges(8, 9) == [8, 9]
    assert band_edges(0, 1) == [0, 1]
