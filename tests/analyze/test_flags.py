"""Each flag stands for its own trap, and for no other."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from golden_stores import READ
from made_runs import MakeRun

from lpp.analyze import analyze
from lpp.analyze.cli.command import main
from lpp.analyze.metrics.registry import PAPER_NAMES
from lpp.analyze.quantities.flags import FACTS, FLAGS, MEANING, flags_of, flags_of_any
from lpp.analyze.tables.facts import metric_facts, profile_facts
from lpp.store.format.plan import NO_TOKENIZER

Row = dict[str, Any]
Rows = list[Row]
NAMES = (
    "entropy",
    "entropy_norm",
    "participation_ratio",
    "participation_ratio_norm",
    "effective_rank",
    "effective_rank_norm",
)
KEY = {"run": "r", "context": 20, "n_prompts": 10}
SITE = {**KEY, "site": "final", "first_position": 0}


def clean() -> tuple[Row, Any, Any, Any]:
    """A profile of two prefixes without a flag; spectra, entropy and run that it goes with."""
    values = dict(zip(NAMES, (1.2, 0.3, 4.0, 0.5, 5.0, 0.625), strict=True))
    profile: Row = {
        **values,
        **{f"{name}_stderr": 0.19 * value for name, value in values.items()},
        **dict.fromkeys((f"{name}_prefix" for name in NAMES), 20),
        **{"n_prompts": 10, "n_quarantined": 0, "entropy_prefix": 10, "entropy_norm_prefix": 10},
    }
    spectra = [
        {"prefix": L, "n_tokens": 10 * L, "dim": 8, "n_sinks": 0}
        | {"lossy": False}
        | {name: values[name] for name in NAMES[2:]}
        for L in (10, 20)
    ]
    entropy = [
        {"prefix": L, "n_duplicates": 0, "short_prompts": 1, "distinct_prefixes": 0.5}
        for L in (10, 20)
    ]
    return profile, spectra, entropy, {"logits_width": 64, "tokenizer_size": 64}


def table(key: Row, *rows: Row) -> pl.DataFrame:
    """Rows of one table, with types of columns that hold no value."""
    names = {name for row in rows for name in row}
    integers = [name for name in names if name.endswith("_prefix") or name == "dim"]
    numbers = [name for name in names if name.removesuffix("_stderr") in NAMES]
    frame = pl.DataFrame([key | row for row in rows])
    return frame.with_columns(pl.col(integers).cast(pl.Int64), pl.col(numbers).cast(pl.Float64))


def flags(
    profile: Row,
    spectra: Rows,
    entropy: Rows,
    run: Row,
    *,
    computed: Collection[str] = PAPER_NAMES,
    prompt_sets: Collection[str] = (),
    first_position: int = 0,
) -> list[str]:
    """The flags of one profile, joined with the rows that it was made of."""
    key = {**SITE, "n_prompts": profile["n_prompts"], "first_position": first_position}
    of_run = {name: key[name] for name in KEY}
    facts = (
        profile_facts(
            table({**key, "n_prompt_sets": len(set(prompt_sets))}, profile),
            metric,
            spectra=table(key, *spectra).cast({"prefix": pl.Int32}),
            entropy=table(of_run, *entropy).cast({"prefix": pl.Int32}),
            runs=table({"run": "r"}, run),
            computed=computed,
        )
        for metric in NAMES
    )
    found: list[str] = flags_of_any(facts).to_list()[0]
    return found


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
    mean = {**profile, "entropy_norm_prefix": None}
    assert flags(mean, spectra, entropy, run) == ["template"]


def test_a_floor_where_most_prompts_agree() -> None:
    profile, spectra, entropy, run = clean()
    entropy[0]["distinct_prefixes"] = 0.49
    assert flags(profile, spectra, entropy, run) == ["template"]


def test_logits_wider_than_the_tokenizer() -> None:
    profile, spectra, entropy, run = clean()
    assert flags(profile, spectra, entropy, {**run, "logits_width": 65}) == ["padded_vocab"]


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
    absent = {**unknown, name: None, f"{name}_prefix": None}
    assert "no_error" not in flags(absent, *others)


def test_one_prompt_is_a_small_sample() -> None:
    profile, spectra, entropy, run = clean()
    alone = {name: None if "stderr" in name else value for name, value in profile.items()}
    assert flags(alone, spectra, entropy, run) == ["no_error"]
    entropy = [row | {"short_prompts": 0} for row in entropy]
    assert flags({**alone, "n_prompts": 1}, spectra, entropy, run) == ["small_sample"]


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
        ({"stderr": 0.0}, ["zero_error"]),
        ({"stderr": 1e-10}, ["zero_error"]),
        ({"stderr": 1e-8}, []),
        ({"value": None, "stderr": None}, []),
        ({"ratio": 1.01}, ["collapsed"]),
        ({"ratio": 1.011}, []),
        ({"ratio": 0.0}, []),
        ({"participation_ratio": 1.005}, []),
        ({"ratio": None}, ["not_finite"]),
        ({"ratio": None, "of_logits": True}, []),
        ({"n_tokens": 7}, ["normaliser"]),
        ({"n_quarantined": 1}, ["quarantined"]),
        ({"n_tokens": 7, "metric": "zscore_effective_rank"}, []),
        ({"short_prompts": 2}, ["short_text"]),
        ({"n_duplicates": 2}, ["duplicates"]),
        ({"n_sinks": 1}, ["sink"]),
        ({"n_sinks": 1, "of_logits": True}, []),
        ({"n_sinks": 1, "first_position": 2}, ["sink"]),  # some are among the rows still
        ({"n_prompt_sets": 2}, ["different_prompts"]),
        ({"lossy": True}, ["lossy"]),
        ({"lossy": True, "of_logits": True}, []),
        ({"logits_width": 65}, []),
        ({"logits_width": 65, "of_logits": True}, ["padded_vocab"]),
    ],
)
def test_flags_of_one_declared_metric(changes: Row, expected: list[str]) -> None:
    def changed(row: Row) -> Row:
        return {name: changes.get(name, value) for name, value in row.items()}

    key = changed({**SITE, "prefix": 10})
    of_run = {name: key[name] for name in (*KEY, "prefix")}
    logits = changes.get("of_logits")
    number = {"value": 1.0, "stderr": 0.1, "n_quarantined": 0, "n_prompt_sets": 1}
    metrics = [
        changed({**key, **number, "metric": "zscore_effective_rank_norm"}),
        # the rank that says whether the matrix of the number collapsed
        {**key, **number, "metric": "zscore_participation_ratio", "value": changes.get("ratio", 4)},
    ]
    _, (spectrum, _), (entropy, _), run = clean()
    facts = metric_facts(
        pl.DataFrame(metrics, schema_overrides={"value": pl.Float64, "stderr": pl.Float64})
        .with_columns(site=pl.lit("logits" if logits else "final"))
        .filter(pl.lit(not logits) | (pl.col("metric") == metrics[0]["metric"])),
        spectra=pl.DataFrame([key | changed(spectrum | {"prefix": 10})]),
        entropy=pl.DataFrame([of_run | changed(entropy | {"prefix": 10})]),
        runs=pl.DataFrame([{"run": "r"} | changed(run)]),
    )
    assert flags_of(facts).to_list()[0] == expected


def test_prompts_that_are_there_twice() -> None:
    profile, spectra, entropy, run = clean()
    entropy[0]["n_duplicates"] = entropy[1]["n_duplicates"] = 2
    assert flags(profile, spectra, entropy, run) == ["duplicates"]


def test_an_error_of_nothing() -> None:
    profile, *others = clean()
    assert flags({**profile, "effective_rank_stderr": 1e-16}, *others) == ["zero_error"]
    no_variance = {**profile, "effective_rank": 0.0, "effective_rank_stderr": 0.0}
    assert flags(no_variance, *others) == ["zero_error"]


def test_sinks_in_the_rows_that_a_rank_came_from() -> None:
    profile, spectra, *others = clean()
    spectra[0]["n_sinks"] = 2  # no rank came from this prefix
    assert flags(profile, spectra, *others) == []
    spectra[1]["n_sinks"] = 2
    assert flags(profile, spectra, *others) == ["sink"]


def test_rounded_rows_behind_a_rank() -> None:
    profile, spectra, *others = clean()
    spectra[0]["lossy"] = True  # no rank came from this prefix
    assert flags(profile, spectra, *others) == []
    spectra[1]["lossy"] = True
    assert flags(profile, spectra, *others) == ["lossy"]


def test_facts_that_are_not_there_hold_no_flag() -> None:
    bare = pl.DataFrame({"run": ["r"]})
    assert flags_of(bare).to_list() == [[]]
    assert flags_of(bare.clear()).to_list() == []


def test_flags_are_declared_over_facts_and_in_order() -> None:
    names = [flag.name for flag in FLAGS]
    assert names == sorted(MEANING)
    used = {name for flag in FLAGS for name in flag.holds.meta.root_names()}
    assert used == set(FACTS)


def test_every_flag_is_explained() -> None:
    profile, spectra, entropy, run = clean()
    spectra[0]["effective_rank"] = None
    spectra[1] |= {"n_tokens": 1, "n_sinks": 1, "lossy": True}
    for row in entropy:
        row |= {"short_prompts": 9, "distinct_prefixes": 0.1, "n_duplicates": 2}
    every = flags(
        {
            **profile,
            "n_quarantined": 2,
            "participation_ratio": 1.0,
            "effective_rank_norm_stderr": None,
            "effective_rank_stderr": 0.0,
        },
        spectra,
        entropy,
        {**run, "logits_width": 99},
        prompt_sets=["p0", "p1"],
    )
    pair = flags_of(pl.DataFrame({"n_prefixes": [1, 2]})).to_list()
    assert pair == [[], ["different_prefixes"]]  # of a difference
    assert sorted([*every, *pair[1]]) == sorted(MEANING)


@pytest.mark.slow
def test_rows_of_zeros_and_a_run_without_a_tokenizer(make_run: MakeRun) -> None:
    made = make_run(tokenizer=NO_TOKENIZER, scale=np.zeros_like)
    analysis = analyze(made.root)
    assert analysis.runs["tokenizer_size"].to_list() == [None]
    found = {*analysis.profiles()["flags"].explode()}
    assert not found & {"collapsed", "padded_vocab"}
    other = analyze(make_run(root=made.root.parent / "other").root)
    assert "padded_vocab" in {*other.profiles()["flags"].explode()}


@pytest.mark.slow
def test_a_flag_of_a_site_alone_is_explained(tmp_path: Path) -> None:
    """The profiles of the golden store carry no `lossy`; a site of 8 bits does."""
    root = shutil.copytree(READ[-1], tmp_path / "store")
    done = CliRunner().invoke(main, ["profile", str(root)])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("lossy ")]
    assert line.removeprefix("lossy (A at 1 site): ") in MEANING["lossy"]
