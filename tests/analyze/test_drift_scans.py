"""Lazy tables of drift: what is asked for decides what is computed, and is what `diff` says."""

from pathlib import Path

import polars as pl
import pytest
from kept_heads import keep_head
from made_runs import MakeRun
from polars.testing import assert_frame_equal

from lpp.analyze import DiffSettings, diff, scan_drift_sites, scan_drift_tokens
from lpp.analyze.drift.predictions import TOKEN_DRIFT
from lpp.analyze.drift.sites import SITES_SCHEMA, site_frame
from lpp.store.errors import InputError

LENGTHS = (12, 7, 20, 20, 3, 15)


@pytest.fixture
def root(make_run: MakeRun) -> Path:
    """A store of two models, with their head."""
    made = make_run(LENGTHS, model="tiny/base", vary_tokens=True)
    make_run(LENGTHS, model="tiny/tuned", seed=1, vary_tokens=True)
    keep_head(made.root, made.plan)
    return made.root


def kept(root: Path, pattern: str) -> list[pl.DataFrame]:
    return [pl.read_ipc(path) for path in sorted(root.glob(f"analysis/*/drift-*/{pattern}"))]


def test_tokens_are_those_of_diff(root: Path) -> None:
    table = scan_drift_tokens(root, "base", "tuned", first_position=2)
    assert table.collect_schema() == TOKEN_DRIFT
    assert_frame_equal(
        table.collect(), diff(root, "base", "tuned", DiffSettings(skip_first=2)).tokens
    )
    some = table.filter(pl.col("kl") > 0.1).select("prompt_id", "kl").head(3).collect()
    whole = diff(root, "base", "tuned", DiffSettings(skip_first=2)).tokens
    assert_frame_equal(some, whole.filter(pl.col("kl") > 0.1).select("prompt_id", "kl").head(3))


def test_columns_of_tokens_decide_what_is_computed(root: Path) -> None:
    table = scan_drift_tokens(root, "base", "tuned")
    moved = pl.col("next_logprob_a") - pl.col("next_logprob_b")
    assert len(table.select(moved).collect()) == sum(LENGTHS)
    assert kept(root, "logits-*/*") == []
    flips = table.select("flip").collect()["flip"]
    (file,) = kept(root, "logits-*/*")
    assert file["flip"].equals(flips)
    assert file.drop("version", "flip").null_count().row(0) == (len(flips),) * 7


def test_sites_are_those_of_diff(root: Path) -> None:
    table = scan_drift_sites(root, "base", "tuned", errors="all")
    assert table.collect_schema() == SITES_SCHEMA
    found = diff(root, "base", "tuned", DiffSettings(errors="all"))
    assert_frame_equal(table.collect(), site_frame(found.sites))
    (final,) = found.sites[-1:]
    row = table.filter(site="final").collect().row(0, named=True)
    assert (row["site"], row["depth"], row["n_tokens"]) == ("final", 2, sum(LENGTHS))
    assert (row["cka"], row["cka_stderr"]) == final.cka[:2]
    assert (row["cosine_ci_low"], row["cosine_ci_high"]) == final.cosine[2:4]


def test_one_site_and_its_columns_decide_what_is_computed(root: Path) -> None:
    table = scan_drift_sites(root, "base", "tuned", errors="all")
    keys = table.select("site", "n_tokens").collect()
    assert keys["site"].to_list() == ["embed", "block.1", "block.2", "final"]
    assert kept(root, "*/*") == []
    table.filter(site="block.1").select("cosine").collect()
    (rows,) = kept(root, "*/*")
    assert {*rows["metric"]} == {"cosine", "relative_distance", "sqnr"}
    table.filter(site="block.1").select("site", "cka").collect()
    # of CKA the squared norm of X'Y is kept here; those of X'X and Y'Y with the spectra of the runs
    assert {*rows["metric"]} | {"cross"} == {*pl.concat(kept(root, "block.1/*"))["metric"]}
    assert len(pl.concat(kept(root, "block.1/*")).filter(metric="cross")) == 1
    table.filter(site="block.1").select("cka_ci_low").collect()
    assert len(pl.concat(kept(root, "block.1/*")).filter(metric="cross")) == 1 + len(LENGTHS)
    assert kept(root, "[!b]*/*") == []


def test_errors_at_final_are_of_no_other_site(root: Path) -> None:
    table = scan_drift_sites(root, "base", "tuned")
    sites = pl.col("site").is_in(["block.1", "block.2"])
    assert table.filter(sites).collect()["cka_stderr"].null_count() == 2
    assert table.collect()["cka_stderr"].null_count() == 3


def test_runs_that_are_not_comparable_are_refused_at_once(root: Path, make_run: MakeRun) -> None:
    make_run(LENGTHS, model="tiny/other", corpus="other", first_row=500)
    for table in (scan_drift_sites, scan_drift_tokens):
        with pytest.raises(InputError, match="share no first prompt"):
            table(root, "base", "other")
