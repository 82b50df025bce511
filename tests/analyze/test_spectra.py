"""Spectra from a store against an SVD of the rows that went in."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_runs import MakeRun
from on_disk import on_disk
from polars.testing import assert_frame_equal

from lpp.analyze import scan_spectra
from lpp.analyze.numerics import moments
from lpp.analyze.tables.spectra import SPECTRA_SCHEMA
from lpp.store import open_store
from lpp.store.errors import FormatError

Array = npt.NDArray[np.float32]


def svd_ranks(rows: Array) -> tuple[float, float, float]:
    """PR, ER and the first eigenvalue's share, from singular values in float64."""
    wide = rows.astype(np.float64)
    values = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False) ** 2
    if values.sum() < 1e-20:
        return 0.0, 0.0, 0.0
    share = values[values > 0] / values.sum()
    entropy = -(share * np.log(share)).sum()
    return 1 / (share**2).sum(), float(np.exp(entropy)), share[0]


def enormous(rows: Array) -> Array:
    rows[:, 3] *= 2000
    return rows


CASES: dict[str, dict[str, Any]] = {
    "more rows than columns": {"dim": 6},
    "fewer rows than columns": {"dim": 120},
    "columns between the prefixes": {"dim": 40},
    "one prompt": {"lengths": [17], "dim": 5},
    "prompts shorter than the prefix": {"lengths": [1, 2, 20, 1]},
    "one enormous dimension": {"scale": enormous},
    "equal rows": {"scale": lambda rows: np.full_like(rows, 0.1)},
    "zero matrix": {"scale": np.zeros_like},
    "one column": {"dim": 1},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_row_agrees_with_an_svd(make_run: MakeRun, case: dict[str, Any]) -> None:
    made = make_run(**case)
    count = len(made.prompts)
    sizes = sorted({1, (count + 1) // 2, count})
    table = scan_spectra(made.root, contexts=[7, 20], prompts=sizes).collect()
    assert table.columns == list(SPECTRA_SCHEMA)
    assert len(table) == 4 * (7 + 10) * len(sizes)
    for row in table.iter_rows(named=True):
        rows = made.rows(row["site"], row["prefix"], row["n_prompts"])
        ratio, rank, share = svd_ranks(rows)
        bound = min(rows.shape)
        assert (row["n_tokens"], row["dim"], row["rank_bound"]) == (*rows.shape, bound)
        assert row["participation_ratio"] == pytest.approx(ratio, rel=1e-6)
        assert row["effective_rank"] == pytest.approx(rank, rel=1e-6)
        assert row["participation_ratio_norm"] == pytest.approx(ratio / bound, rel=1e-6)
        assert row["effective_rank_norm"] == pytest.approx(rank / bound, rel=1e-6)
        assert row["top_share"] == pytest.approx(share, rel=1e-6)
        assert row["participation_ratio"] <= row["effective_rank"] <= bound


def test_products_in_many_chunks_agree(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "MIN_CHUNK_ROWS", 1)  # so that bands of more than d rows overflow
    made = make_run(lengths=[20] * 9, dim=4, per_shard=4)
    for row in scan_spectra(made.root, prompts=[5, 9]).collect().iter_rows(named=True):
        ratio, rank, _ = svd_ranks(made.rows(row["site"], row["prefix"], row["n_prompts"]))
        assert row["participation_ratio"] == pytest.approx(ratio, rel=1e-9)
        assert row["effective_rank"] == pytest.approx(rank, rel=1e-9)


def test_keys_and_depth_are_in_order(make_run: MakeRun) -> None:
    made = make_run()
    keys = scan_spectra(made.root).select("run", "site", "depth", "prefix", "n_prompts").collect()
    assert keys["site"].unique(maintain_order=True).to_list() == [
        *("embed", "block.1", "block.2", "final")
    ]
    assert dict(keys.select("site", "depth").iter_rows()) == {
        **{"embed": 0, "block.1": 1, "block.2": 2, "final": 2}
    }
    assert keys["run"].unique().to_list() == [made.run_id]
    assert keys.filter(site="final")["prefix"].to_list() == list(range(2, 21, 2))
    assert keys["n_prompts"].unique().to_list() == [6]


def test_a_shorter_context_equals_a_capture_at_it(make_run: MakeRun, tmp_path: Path) -> None:
    whole = make_run(context=20)
    short = make_run(context=10, root=tmp_path / "short")
    ours = scan_spectra(whole.root, contexts=[10]).drop("run").collect()
    assert_frame_equal(ours, scan_spectra(short.root).drop("run").collect(), rel_tol=1e-12)


def test_missing_shards_leave_the_prompts_before_them(make_run: MakeRun) -> None:
    made = make_run(shards=[0, 2])
    with pytest.warns(UserWarning, match=r"1 of 3 shards are missing \(1\)"):
        scan = scan_spectra(made.root, prompts=None)
    table = scan.filter(site="final", prefix=20).collect()
    assert table["n_prompts"].to_list() == [2]
    assert table["participation_ratio"].item() == pytest.approx(
        svd_ranks(made.rows("final", 20, 2))[0], rel=1e-9
    )


def test_rows_that_are_not_finite_have_no_ranks(make_run: MakeRun) -> None:
    def broken(rows: Array) -> Array:
        rows[-1, 0] = np.inf  # the last position of each prompt
        return rows

    made = make_run(lengths=[20, 20], scale=broken)
    table = scan_spectra(made.root).filter(site="final").collect()
    assert table["participation_ratio"].is_null().to_list() == [False] * 9 + [True]
    assert table["effective_rank"].is_null().to_list() == [False] * 9 + [True]


def test_altered_rows_never_become_numbers(make_run: MakeRun) -> None:
    made = make_run()
    shard = open_store(made.root).runs[made.run_id].shards[0].objects_dir
    chunk = next(p for p in (on_disk(shard) / "hidden.zarr/final/c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[20] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(FormatError, match="altered since they were committed"):
        scan_spectra(made.root).filter(site="final").collect()
