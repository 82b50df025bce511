"""Each flag stands for its own trap, and for no other."""

from typing import Any

import pytest

from lpp.analyze.tables.flags import MEANING, flags, metric_flags

Rows = list[dict[str, Any]]


def clean() -> tuple[dict[str, Any], Rows, Rows, dict[str, Any]]:
    """A profile of two prefixes without a flag."""
    values = {
        "entropy_norm": 0.3,
        "participation_ratio": 4.0,
        "participation_ratio_norm": 0.5,
        "effective_rank": 5.0,
        "effective_rank_norm": 0.625,
    }
    profile: dict[str, Any] = {
        **values,
        **{f"{name}_stderr": 0.19 * value for name, value in values.items()},
        "n_prompts": 10,
        "n_quarantined": 0,
        "entropy_norm_prefix": 10,
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
    profile["participation_ratio_stderr"] = 0.001
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


@pytest.mark.parametrize(
    "name", ["entropy_norm", "participation_ratio", "effective_rank", "effective_rank_norm"]
)
def test_an_error_of_more_than_a_fifth(name: str) -> None:
    profile, *others = clean()
    unsure = {**profile, f"{name}_stderr": 0.21 * profile[name]}
    assert flags(unsure, *others) == ["small_sample"]
    unknown = {**profile, f"{name}_stderr": None}
    assert flags(unknown, *others) == ["no_error"]
    absent = {**unknown, name: None}
    assert "no_error" not in flags(absent, *others)


def test_one_prompt_is_a_small_sample() -> None:
    profile, *others = clean()
    alone = {name: None if "stderr" in name else value for name, value in profile.items()}
    assert flags({**alone, "n_prompts": 1}, *others) == ["small_sample"]
    assert flags(alone, *others) == ["no_error"]


def test_runs_beside_each_other_on_different_texts() -> None:
    assert flags(*clean(), prompt_sets=["p0", "p0"]) == []
    assert flags(*clean(), prompt_sets=["p0", "p1"]) == ["different_prompts"]


def test_ranks_that_nobody_asked_for_are_no_loss() -> None:
    profile, spectra, *others = clean()
    absent = [name for name in profile if name.startswith("effective_rank")]
    profile |= dict.fromkeys(absent)
    for row in spectra:
        row["effective_rank"] = None
    assert flags(profile, spectra, *others, computed=["participation_ratio"]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"stderr": 0.3}, ["small_sample"]),
        ({"stderr": None, "n_prompts": 1, "short_prompts": 0}, ["small_sample"]),
        ({"stderr": None}, ["no_error"]),
        ({"value": None, "stderr": None}, []),
        ({"ratio": 1.01}, ["collapsed"]),
        ({"ratio": 1.011}, []),
        ({"participation_ratio": 1.005}, []),
        ({"ratio": None}, ["not_finite"]),
        ({"ratio": None, "of_logits": True}, []),
        ({"n_tokens": 7}, ["normaliser"]),
        ({"n_quarantined": 1}, ["quarantined"]),
        ({"n_tokens": 7, "metric": "rankme"}, []),
        ({"short_prompts": 2}, ["short_text"]),
        ({"prompt_sets": ["p0", "p1"]}, ["different_prompts"]),
        ({"logits_width": 65}, []),
        ({"logits_width": 65, "of_logits": True}, ["padded_vocab"]),
    ],
)
def test_flags_of_one_declared_metric(changes: dict[str, Any], expected: list[str]) -> None:
    row = {"metric": "some_norm", "value": 1.0, "stderr": 0.1, "n_prompts": 10, "n_quarantined": 0}
    spectrum = {"participation_ratio": 4.0, "n_tokens": 100, "dim": 8}
    _, _, (entropy, _), run = clean()
    parts: list[Any] = [
        {name: changes.get(name, value) for name, value in part.items()}
        for part in (row, spectrum, entropy, run)
    ]
    if changes.get("of_logits"):
        parts[1] = None
    ratio, sets = changes.get("ratio", 4.0), changes.get("prompt_sets", ["p0"])
    assert metric_flags(*parts, ratio=ratio, prompt_sets=sets) == expected


def test_every_flag_is_explained() -> None:
    profile, spectra, entropy, run = clean()
    spectra[0]["effective_rank"] = None
    spectra[1]["n_tokens"] = 1
    entropy[0] |= {"short_prompts": 9, "distinct_prefixes": 0.1}
    every = flags(
        {
            **profile,
            "n_quarantined": 2,
            "participation_ratio": 1.0,
            "effective_rank_norm_stderr": None,
        },
        spectra,
        entropy,
        {**run, "logits_width": 99},
        prompt_sets=["p0", "p1"],
    )
    assert every == sorted({*MEANING} - {"sink"})  # of `cka` alone
