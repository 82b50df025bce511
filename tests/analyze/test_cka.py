"""Linear CKA from streamed cross-scatter against the Gram matrices it stands for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from click.testing import CliRunner

from lpp.analyze.cli.command import main
from lpp.analyze.runs.select import Selection, select_runs, select_sites
from lpp.analyze.studies import cka as cka_module
from lpp.analyze.studies.cka import linear_cka, pairs_of
from lpp.analyze.studies.cka_table import compute, plan, write
from lpp.store import Run
from lpp.store.errors import ErrorKind, InputError

Array = npt.NDArray[np.float32]


def slow_cka(x: Array, y: Array) -> float:
    """From N x N Gram matrices, as HSIC is defined."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    k, m = (centring @ (a @ a.T) @ centring for a in (x.astype(np.float64), y.astype(np.float64)))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def table(root: Path, **options: Any) -> pl.DataFrame:
    views, _ = select_runs(root, Selection())
    work, _ = plan(views, select_sites(views, Selection()), **options)
    return compute(work)


@pytest.mark.parametrize("dim", [1, 6, 90])
def test_every_pair_equals_its_gram_matrices(
    make_run: Callable[..., Any], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cka_module, "BLOCK_BYTES", 256)
    made = make_run(dim=dim)
    for prefix, prompts in ((None, None), (5, None), (13, 4)):
        found = table(made.root, prefix=prefix, prompts=prompts, every=True)
        assert len(found) == 6
        for row in found.iter_rows(named=True):
            x, y = (made.rows(row[s], row["prefix"], prompts) for s in ("site", "other_site"))
            assert (row["prefix"], row["n_tokens"]) == (prefix or 20, len(x))
            assert row["cka"] == pytest.approx(slow_cka(x, y), rel=1e-9, abs=1e-12)
            assert row["depth"] <= row["other_depth"]


def test_neighbours_alone_read_each_site_twice(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run()
    reads: list[str] = []
    blocks = Run.blocks

    def counted(run: Run, site: str, **options: Any) -> Any:
        reads.append(site)
        return blocks(run, site, **options)

    monkeypatch.setattr(Run, "blocks", counted)
    found = table(made.root)
    assert list(found.select("site", "other_site").iter_rows()) == [
        ("embed", "block.1"),
        ("block.1", "block.2"),
        ("block.2", "final"),
    ]
    assert reads == ["embed", "block.1", "block.1", "block.2", "block.2", "final"]
    every = table(made.root, every=True).join(found, on=["site", "other_site"])
    np.testing.assert_allclose(every["cka"], every["cka_right"], rtol=1e-12)


def test_rotation_scale_and_shift_change_nothing() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 8)).astype(np.float32)
    y = (x[:, :5] ** 2).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    assert linear_cka(x, x) == pytest.approx(1, rel=1e-12)
    assert linear_cka(x, 5 * x @ turn - 3) == pytest.approx(1, rel=1e-6)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)
    assert linear_cka(x @ turn, 2 * y + 7) == pytest.approx(linear_cka(x, y), rel=1e-4)
    far = (x + np.float32(2e4)).astype(np.float32)
    assert linear_cka(far, x) == pytest.approx(1, abs=1e-4)  # float32 rounds what was added to
    assert 0 <= linear_cka(x, y) < 0.3


def test_unrelated_rows_have_what_the_docstring_says() -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=(300, 100)).astype(np.float32) for _ in range(2))
    assert linear_cka(x, y) == pytest.approx(100 / 400, abs=0.02)


def test_without_variance_and_with_infinities_there_is_no_number(
    make_run: Callable[..., Any],
) -> None:
    assert np.isnan(linear_cka(np.ones((5, 2), np.float32), np.eye(5, 2, dtype=np.float32)))
    assert np.isnan(linear_cka(np.empty((0, 2), np.float32), np.empty((0, 3), np.float32)))

    def broken(rows: Array) -> Array:
        rows[-1, 0] = np.inf
        return rows

    made = make_run(lengths=[20, 20], scale=broken)
    assert table(made.root)["cka"].null_count() == 3
    assert table(made.root, prefix=19)["cka"].null_count() == 0


def test_the_table_is_put_beside_the_others(make_run: Callable[..., Any]) -> None:
    made = make_run()
    make_run(model="b", sites=("final",))
    views, _ = select_runs(made.root, Selection())
    work, left_out = plan(views, ["embed", "final"])
    assert [part.view.run.id for part in work] == [made.run_id]
    assert "fewer than two of the sites" in left_out[0]
    database = write(made.root, compute(work))
    write(made.root, compute(work))
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.sql("FROM cka JOIN runs USING (run) SELECT site, other_site, model")
        assert rows.fetchall() == [("embed", "final", "tiny/model")]


def test_what_no_run_holds_is_one_message(make_run: Callable[..., Any]) -> None:
    made = make_run()
    views, _ = select_runs(made.root, Selection())
    for options in ({"prefix": 21}, {"prompts": 7}):
        with pytest.raises(InputError, match="no run has two of the sites") as caught:
            plan(views, ["embed", "final"], **options)
        assert caught.value.kind is ErrorKind.NOT_FOUND
    assert pairs_of(["final"]) == []


def test_the_command_prints_and_stores(make_run: Callable[..., Any]) -> None:
    made = make_run()
    runner = CliRunner(env={"COLUMNS": "80"})
    done = runner.invoke(main, ["cka", str(made.root), "--prefix", "10"])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80 or str(made.root) in done.stdout
    assert "Linear CKA of 50 tokens: 6 prompts, prefix 10." in done.stdout
    assert "3 pairs are in" in done.stdout
    csv = runner.invoke(main, ["cka", str(made.root), "--all-pairs", "--format", "csv"])
    assert csv.stdout.splitlines()[0].startswith("run,prefix,n_prompts,site,other_site")
    assert len(csv.stdout.splitlines()) == 7


def test_flags_are_of_the_tokens_compared(make_run: Callable[..., Any]) -> None:
    made = make_run([20] * 5 + [3], model="a/one")  # 1 of 6 is short
    make_run([20] * 6, model="b/two", seed=1)

    def flags(**options: Any) -> set[tuple[str, ...]]:
        return set(map(tuple, table(made.root, **options)["flags"].to_list()))

    assert flags(prefix=3) == {()}
    assert flags() == {("short_text",), ()}
    assert flags(prefix=3, prompts=1) == {("small_sample",)}
    make_run([20] * 6, model="c/three", prompt_set="q", first_row=500)
    assert flags(prefix=3) == {("different_prompts",)}
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["cka", str(made.root), "--prefix", "3"])
    assert "prefix 3. Flags: different_prompts." in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-2])) <= 80
