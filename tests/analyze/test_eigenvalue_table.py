"""Whole spectra as a table."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import MakeRun

from lpp.analyze import Selection, read_eigenvalues, scan_spectra
from lpp.analyze.engine.cache import Cache
from lpp.store import open_store
from lpp.store.errors import InputError


def test_against_numpy(make_run: MakeRun) -> None:
    made = make_run()
    found = read_eigenvalues(made.root, Selection(sites=("block.1", "final")), prefix=10)
    assert found.select("site", "prefix", "n_prompts", "depth").unique().sort("site").rows() == [
        ("block.1", 10, 6, 1),
        ("final", 10, 6, 2),
    ]
    rows = made.rows("block.1", 10).astype(np.float64)
    expected = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    block = found.filter(site="block.1")
    assert block["rank"].to_list() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(block["eigenvalue"], expected, rtol=1e-9)
    np.testing.assert_allclose(block["share"], expected / expected.sum(), rtol=1e-9)


def test_the_default_is_final_and_the_whole_context(make_run: MakeRun) -> None:
    made = make_run()
    found = read_eigenvalues(made.root)
    assert found.select("run", "site", "context", "prefix").unique().rows() == [
        (made.run_id, "final", 20, 20)
    ]
    some = read_eigenvalues(made.root, Selection(sites=("final",), contexts=[10], prompts=[2, 4]))
    assert some.group_by("prefix", "n_prompts").len().sort("n_prompts").rows() == [
        (10, 2, 6),
        (10, 4, 6),
    ]
    assert some.filter(n_prompts=4)["rank"].to_list() == [1, 2, 3, 4, 5, 6]


def test_what_lies_in_the_cache_is_read_from_it(make_run: MakeRun) -> None:
    made = make_run()
    ranks = scan_spectra(made.root).filter(site="final", prefix=20).collect()
    for shard in made.root.rglob("hidden.zarr"):
        shard.rename(shard.with_name("gone"))
    found = read_eigenvalues(made.root)
    share = found["share"].to_numpy()
    assert np.exp(-(share * np.log(share)).sum()) == pytest.approx(ranks.item(0, "effective_rank"))


def test_what_does_not_is_kept(make_run: MakeRun) -> None:
    made = make_run()
    read_eigenvalues(made.root)
    store = open_store(made.root)
    assert Cache(store.path, store.runs[made.run_id]).summaries("final")


def test_a_store_that_cannot_be_written_is_read(make_run: MakeRun) -> None:
    made = make_run()
    (made.root / "analysis").write_text("in the way")
    assert len(read_eigenvalues(made.root)) == 6


def test_rows_that_are_not_finite_have_no_spectrum(make_run: MakeRun) -> None:
    def spoiled(rows: Any) -> Any:
        rows[0, 0] = np.inf
        return rows

    assert read_eigenvalues(make_run(scale=spoiled).root).is_empty()


def test_without_variance_shares_are_not_numbers(make_run: MakeRun) -> None:
    found = read_eigenvalues(make_run(scale=np.zeros_like).root)
    assert found["eigenvalue"].to_list() == [0.0] * 6
    assert found["share"].null_count() == 6
    assert found.schema["share"] == pl.Float64


def test_nothing_fits(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="no site"):
        read_eigenvalues(make_run().root, Selection(sites=("nowhere",)))
