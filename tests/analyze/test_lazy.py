"""What reaches the computation: reads and eigensolves are counted, not believed."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_runs import MakeRun
from polars.testing import assert_frame_equal

from lpp.analyze import scan_entropy, scan_spectra, scan_tokens
from lpp.analyze.engine import cache
from lpp.analyze.runs.rows.token_files import read_tokens
from lpp.analyze.tables import entropy, tokens
from lpp.analyze.tables.lazy import conjuncts
from lpp.store.runs.read import Block, Run


@pytest.fixture
def work(work: Counter[str], monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts reads of each site by its name, too, and reads of token files."""
    lock = threading.Lock()
    blocks = Run.blocks

    def counted_blocks(run: Run, site: str, **options: Any) -> Iterator[Block]:
        with lock:
            work[site] += 1
        return blocks(run, site, **options)

    def counted_tokens(file: Path, names: Sequence[str]) -> pl.DataFrame:
        work["token reads"] += 1
        return read_tokens(file, names)

    monkeypatch.setattr(Run, "blocks", counted_blocks)
    for module in (tokens, entropy):
        monkeypatch.setattr(module, "read_tokens", counted_tokens)
    return work


@pytest.fixture
def root(make_run: MakeRun) -> Path:
    """A store of two runs of four sites; contexts 20 and 10."""
    make_run(model="long")
    made = make_run(model="short", context=10, seed=1)
    return made.root


def test_keys_alone_read_nothing(root: Path, work: Counter[str]) -> None:
    keys = scan_spectra(root).select("run", "site", "n_tokens", "rank_bound").collect()
    assert len(keys) == 2 * 4 * 10
    assert not work


def test_one_site_of_one_run_is_one_read(root: Path, work: Counter[str]) -> None:
    table = scan_spectra(root)
    wanted = pl.col("run").str.starts_with("long") & (pl.col("site") == "block.1")
    assert len(table.filter(wanted, prefix=20).collect()) == 1
    assert work == {"block.1": 1, "reads": 1, "solves": 1}


def test_the_participation_ratio_alone_solves_nothing(root: Path, work: Counter[str]) -> None:
    table = scan_spectra(root).filter(pl.col("depth") == 2)
    ratios = table.select("run", "prefix", "participation_ratio_norm").collect()
    assert ratios["participation_ratio_norm"].null_count() == 0
    assert work == {"block.2": 2, "final": 2, "reads": 4}
    table.select("top_share").collect()
    assert work["solves"] == 40


def test_a_filter_on_a_value_counts_as_asking_for_it(root: Path, work: Counter[str]) -> None:
    table = scan_spectra(root).filter(pl.col("site") == "final", pl.col("effective_rank") > 3.5)
    found = table.select("run", "prefix").collect()
    assert work == {"final": 2, "reads": 2, "solves": 20}
    everything = scan_spectra(root).collect()
    expected = everything.filter(pl.col("site") == "final", pl.col("effective_rank") > 3.5)
    assert 0 < len(found) < 20
    assert_frame_equal(found, expected.select("run", "prefix"))


def test_alternatives_across_keys_and_values_are_not_split(root: Path) -> None:
    either = (pl.col("site") == "embed") | (pl.col("participation_ratio") > 3.4)
    lazy = scan_spectra(root).filter(either, pl.col("prefix") > 4).collect()
    assert_frame_equal(lazy, scan_spectra(root).collect().filter(either, pl.col("prefix") > 4))
    assert lazy["site"].n_unique() > 1


def test_head_stops_the_work(root: Path, work: Counter[str]) -> None:
    assert len(scan_spectra(root).head(3).collect()) == 3
    assert work == {"embed": 1, "reads": 1, "solves": 3}


def test_head_counts_before_a_later_filter(root: Path) -> None:
    everything = scan_spectra(root).collect()
    for count in (3, 15):
        later = pl.col("site") == "block.1", pl.col("participation_ratio") > 0
        lazy = scan_spectra(root).head(count).filter(*later).collect()
        assert_frame_equal(lazy, everything.head(count).filter(*later))


def test_what_was_computed_is_not_computed_again(root: Path, work: Counter[str]) -> None:
    first = scan_spectra(root).collect()
    assert work["reads"] == 8
    work.clear()
    assert_frame_equal(scan_spectra(root).collect(), first)
    assert not work
    # Half of this context's prefixes are known from the longer one: X(L) has no context.
    scan_spectra(root, contexts=[10]).filter(run=first["run"][0], site="final").collect()
    assert work == {"final": 1, "reads": 1, "solves": 5}


def test_a_new_shard_or_kernel_is_computed_anew(
    make_run: MakeRun, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(shards=[0])
    final = pl.col("site") == "final"
    with pytest.warns(UserWarning, match="2 of 3 shards are missing"):
        scan = scan_spectra(made.root)
    assert scan.filter(final).collect()["n_prompts"].unique().item() == 2
    make_run()
    assert scan_spectra(made.root).filter(final).collect()["n_prompts"].unique().item() == 6
    assert work["reads"] == 2
    monkeypatch.setattr(cache, "KERNEL_VERSION", 99)
    scan_spectra(made.root).filter(final).collect()
    assert work["reads"] == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "text"])
def test_a_damaged_cache_file_is_computed_again(
    root: Path, work: Counter[str], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    final = pl.col("site") == "final"
    before = scan_spectra(root).filter(final | (pl.col("site") == "embed")).collect()
    (path, *_), (other, *_) = (
        sorted(root.glob(f"analysis/long*/*/{s}/spectra-*.arrow")) for s in ("final", "embed")
    )
    for estimates in root.glob("analysis/long*/*/final/estimates-*.arrow"):
        estimates.unlink()  # they answer without the spectra
    data = bytearray(path.read_bytes())
    start = len(data) // 3
    for place in range(start, start + 64):  # longer than Arrow's padding, which holds nothing
        data[place] ^= 0x10
    path.write_bytes(
        {
            "cut": path.read_bytes()[:200],
            "flipped": bytes(data),
            "foreign": other.read_bytes(),
            "text": b"no arrow at all",
        }[damage]
    )
    work.clear()
    with caplog.at_level(logging.WARNING, "lpp.store"):
        after = scan_spectra(root).filter(final).collect()
    assert_frame_equal(after, before.filter(final))
    assert work == {"final": 1, "reads": 1, "solves": 10}
    assert {record.name for record in caplog.records} == {"lpp.store"}
    work.clear()
    scan_spectra(root).filter(final).collect()
    assert not work


@pytest.mark.slow
def test_a_store_that_cannot_be_written_costs_one_line(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "analysis").write_text("a file where the directory should be")
    with caplog.at_level(logging.WARNING, "lpp.store"):
        table = scan_spectra(root).filter(pl.col("run").str.starts_with("long")).collect()
    assert table["effective_rank"].null_count() == 0
    assert len(caplog.records) == 1
    assert "not kept" in caplog.text


def test_tokens_of_one_prompt_are_one_shard(root: Path, work: Counter[str]) -> None:
    everything = scan_tokens(root).collect()
    assert work["token reads"] == 6
    work.clear()
    wanted = pl.col("run").str.starts_with("long") & (pl.col("prompt_id") == 3)
    some = scan_tokens(root).filter(wanted, pl.col("entropy") > 1).select("position").collect()
    assert work == {"token reads": 1}
    assert_frame_equal(some, everything.filter(wanted, pl.col("entropy") > 1).select("position"))
    assert_frame_equal(
        scan_tokens(root).head(30).filter(prompt_id=2).collect(),
        everything.head(30).filter(prompt_id=2),
    )


def test_entropy_of_keys_alone_reads_no_tokens(root: Path, work: Counter[str]) -> None:
    lazy = scan_entropy(root)
    assert len(lazy.select("run", "prefix", "short_prompts", "distinct_prefixes").collect()) == 20
    assert not work
    lazy.filter(pl.col("run").str.starts_with("long")).select("entropy").collect()
    assert work == {"token reads": 3}  # each shard of one run, once


def test_conjuncts_are_found_at_any_depth() -> None:
    a, b, c = pl.col("a") > 1, pl.col("b").is_in([1, 2]), pl.col("c").is_null() | (pl.col("d") == 0)
    roots = {tuple(sorted(part.meta.root_names())) for part in conjuncts(a & (b & c) & a)}
    assert roots == {("a",), ("b",), ("c", "d")}
    assert len(conjuncts(c)) == 1
    assert len(conjuncts(pl.col("a").and_(pl.col("b"), pl.col("c")))) == 3
