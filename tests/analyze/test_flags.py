"""Each flag stands for its own trap, and for no other."""

from typing import Any

import pytest

from lpp.analyze.flags import MEANING, flags

Rows = list[dict[str, Any]]


def clean() -> tuple[dict[str, Any], Rows, Rows, dict[str, Any]]:
    """A profile of two prefixes without a flag."""
    profile: dict[str, Any] = {
        "entropy_norm_prefix": 10,
        "participation_ratio": 4.0,
        "participation_ratio_prefix": 20,
        "participation_ratio_norm_prefix": 20,
        "effective_rank_prefix": 20,
        "effective_rank_norm_prefix": 20,
    }
    spectra = [
        {"prefix": L, "n_tokens": 10 * L, "dim": 8, "participation_ratio": 3.0,
         "effective_rank": 5.0}
        for L in (10, 20)
    ]  # fmt: skip
    entropy = [
        {"prefix": L, "n_prompts": 10, "short_prompts": 1, "distinct_prefixes": 0.5}
        for L in (10, 20)
    ]
    return profile, spectra, entropy, {"logits_width": 64, "tokenizer_size": 64}


def test_a_clean_profile_has_none() -> None:
    assert flags(*clean()) == []


def test_one_direction() -> None:
    profile, *others = clean()
    assert flags({**profile, "participation_ratio": 1.01}, *others) == ["collapsed"]
    assert flags({**profile, "participation_ratio": 1.011}, *others) == []


def test_a_normalised_rank_that_peaks_elsewhere() -> None:
    profile, *others = clean()
    assert flags({**profile, "effective_rank_norm_prefix": 10}, *others) == ["normaliser"]


def test_a_normaliser_that_is_the_number_of_tokens() -> None:
    profile, spectra, *others = clean()
    spectra[0]["n_tokens"] = 7  # a prefix that nothing came from
    assert flags(profile, spectra, *others) == []
    spectra[1]["n_tokens"] = 7
    assert flags(profile, spectra, *others) == ["normaliser"]


@pytest.mark.parametrize("prefix", [10, 20])
def test_texts_shorter_than_a_prefix_that_counts(prefix: int) -> None:
    profile, spectra, entropy, run = clean()
    entropy[prefix // 10 - 1]["short_prompts"] = 2
    assert flags(profile, spectra, entropy, run) == ["short_text"]


def test_a_mean_came_from_every_prefix() -> None:
    profile, spectra, entropy, run = clean()
    entropy[1]["distinct_prefixes"] = 0.4
    assert flags(profile, spectra, entropy, run) == []
    assert flags({**profile, "entropy_norm_prefix": None}, spectra, entropy, run) == ["template"]


def test_a_floor_where_most_prompts_agree() -> None:
    profile, spectra, entropy, run = clean()
    entropy[0]["distinct_prefixes"] = 0.49
    assert flags(profile, spectra, entropy, run) == ["template"]


def test_logits_wider_than_the_tokenizer() -> None:
    *others, run = clean()
    assert flags(*others, {**run, "logits_width": 65}) == ["padded_vocab"]


def test_rows_that_are_not_finite() -> None:
    profile, spectra, *others = clean()
    spectra[0]["effective_rank"] = None
    lost = {**profile, "participation_ratio": None}
    assert flags(lost, spectra, *others) == ["not_finite"]


def test_every_flag_is_explained() -> None:
    profile, spectra, entropy, run = clean()
    spectra[0]["effective_rank"] = None
    spectra[1]["n_tokens"] = 1
    entropy[0] |= {"short_prompts": 9, "distinct_prefixes": 0.1}
    every = flags(
        {**profile, "participation_ratio": 1.0}, spectra, entropy, {**run, "logits_width": 99}
    )
    assert every == sorted(MEANING)
