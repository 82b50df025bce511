"""Linear CKA from streamed cross-scatter against the Gram matrices it stands for."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.analyze.numerics.cka import BLOCK_ROWS, CrossScatters, linear_cka
from lpp.analyze.pages.words import number
from lpp.analyze.pages.write import written
from lpp.analyze.questions import CkaSettings, Selection
from lpp.analyze.runs.select import select_runs, select_sites
from lpp.analyze.studies import cka as cka_module
from lpp.analyze.studies.cka import MEMORY, pairs_of
from lpp.analyze.studies.cka_table import compute, plan, write_cka
from lpp.analyze.studies.pages.cka_page import cka_page
from lpp.store import Run
from lpp.store.errors import ErrorKind, InputError
from lpp.store.feed.measured import sink_positions

Array = npt.NDArray[np.float32]
FLAGS = pl.List(pl.String)


def slow_cka(x: Array, y: Array) -> float:
    """From N x N Gram matrices, as HSIC is defined."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    k, m = (centring @ (a @ a.T) @ centring for a in (x.astype(np.float64), y.astype(np.float64)))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def table(
    root: Path, *, jobs: int | None = None, memory: int = MEMORY, **options: Any
) -> pl.DataFrame:
    views, _ = select_runs(root, Selection())
    work, _ = plan(views, select_sites(views, Selection()), CkaSettings(**options))
    return compute(work, jobs=jobs, memory=memory)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 6, 90])
def test_every_pair_equals_its_gram_matrices(
    make_run: MakeRun, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cka_module, "BLOCK_ROWS", 1)
    made = make_run(dim=dim)

    def rows_of(site: str, first: int, prefix: int, prompts: int | None) -> Array:
        return np.concatenate([rows[first:prefix] for rows in made.hidden[site][:prompts]])

    for prefix, prompts, first in ((None, None, 0), (5, None, 2), (13, 4, 1)):
        found = table(made.root, prefix=prefix, prompts=prompts, all_pairs=True, skip_first=first)
        assert len(found) == 6
        for row in found.iter_rows(named=True):
            sites = (row["site"], row["other_site"])
            x, y = (rows_of(site, first, row["prefix"], prompts) for site in sites)
            assert row["first_position"] == first
            assert (row["prefix"], row["n_tokens"]) == (prefix or 20, len(x))
            assert row["cka"] == pytest.approx(slow_cka(x, y), rel=1e-9, abs=1e-12)
            assert row["depth"] <= row["other_depth"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sites whose rows are read, one after the other."""
    found: list[str] = []
    blocks = Run.blocks

    def counted(run: Run, site: str, **options: Any) -> Any:
        found.append(site)
        return blocks(run, site, **options)

    monkeypatch.setattr(Run, "blocks", counted)
    return found


SITES = ["embed", "block.1", "block.2", "block.3", "block.4", "final"]


def test_sites_that_fit_into_memory_are_read_once(make_run: MakeRun, reads: list[str]) -> None:
    made = make_run(sites=SITES)
    neighbours = table(made.root)
    assert list(neighbours.select("site", "other_site").iter_rows()) == pairs_of(SITES)
    assert reads == SITES
    every = table(made.root, all_pairs=True)
    assert list(every.select("site", "other_site").iter_rows()) == pairs_of(SITES, all_pairs=True)
    assert reads == 2 * SITES
    found = every.join(neighbours, on=["site", "other_site"])
    np.testing.assert_allclose(found["cka"], found["cka_right"], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "most"), [(1, 5), (2, 3), (3, 2)])
def test_little_memory_gives_the_same_from_more_reads(
    make_run: MakeRun, reads: list[str], group: int, most: int
) -> None:
    """Groups of g sites: all pairs read each of S sites S / g times, neighbours twice at most."""
    made = make_run(sites=SITES, dim=6)
    whole = {every: table(made.root, all_pairs=every) for every in (False, True)}
    reads.clear()
    pairs = group * (group - 1) // 2 if group == len(SITES) else group**2
    memory = 8 * 6**2 * (pairs + 2 * group + 1) + 24 * BLOCK_ROWS * 6 * 2 * group
    assert table(made.root, all_pairs=True, memory=memory, jobs=1).equals(whole[True])
    assert max(reads.count(site) for site in SITES) == most
    reads.clear()
    assert table(made.root, memory=memory, jobs=1).equals(whole[False])
    assert max(reads.count(site) for site in SITES) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2, 5])
def test_any_number_of_jobs_gives_the_same_bits(make_run: MakeRun, jobs: int) -> None:
    made = make_run([40] * 20, context=40, dim=70)
    assert table(made.root, all_pairs=True, jobs=jobs).equals(
        table(made.root, all_pairs=True, jobs=1)
    )


def test_cross_scatters_of_several_blocks_and_sites_are_those_of_the_centred_rows() -> None:
    """Widths differ, a mean is enormous, a column is constant, and one site comes twice."""
    rng = np.random.default_rng(4)
    sites = [rng.normal(size=(3000, d)).astype(np.float32) * np.arange(1, d + 1) for d in (5, 9, 2)]
    sites[0][:, 1] += 30_000
    sites[1][:, 3] = 7.25
    sites.append(sites[0])
    rows = [site.astype(np.float32) for site in sites]
    scatters = CrossScatters([5, 9, 2, 5], [(0, 0), (0, 1), (1, 1), (1, 2), (3, 0), (2, 2)])
    for start, end in ((0, 700), (700, 700), (700, 701), (701, 3000)):
        scatters.add([some[start:end] for some in rows])
    centred = [some.astype(np.float64) - some.astype(np.float64).mean(axis=0) for some in rows]
    for i, j in ((0, 0), (0, 1), (1, 1), (1, 2), (3, 0), (2, 2)):
        expected = np.square(centred[i].T @ centred[j]).sum()
        assert scatters.square(i, j) == pytest.approx(expected, rel=1e-12), (i, j)
    spread = np.linalg.eigvalsh(centred[1].T @ centred[1])
    expected = spread.sum() ** 2 / (spread**2).sum()
    assert scatters.participation_ratio(1) == pytest.approx(expected, rel=1e-12)


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
    make_run: MakeRun,
) -> None:
    assert np.isnan(linear_cka(np.ones((5, 2), np.float32), np.eye(5, 2, dtype=np.float32)))
    assert np.isnan(linear_cka(np.empty((0, 2), np.float32), np.empty((0, 3), np.float32)))

    def broken(rows: Array) -> Array:
        rows[-1, 0] = np.inf
        return rows

    made = make_run(lengths=[20, 20], scale=broken)
    assert table(made.root)["cka"].null_count() == 3
    assert table(made.root, prefix=19)["cka"].null_count() == 0


@pytest.mark.slow
def test_the_table_is_put_beside_the_others(make_run: MakeRun) -> None:
    made = make_run()
    make_run(model="b", sites=("final",))
    views, _ = select_runs(made.root, Selection())
    work, left_out = plan(views, ["embed", "final"])
    assert [part.view.run.id for part in work] == [made.run_id]
    assert left_out == ["b is left out (--sites): it holds one of the sites at most: final."]
    database = write_cka(made.root, compute(work))
    write_cka(made.root, compute(work))
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.sql("FROM cka JOIN runs USING (run) SELECT site, other_site, model")
        assert rows.fetchall() == [("embed", "final", "tiny/model")]


def test_what_no_run_holds_is_one_message(make_run: MakeRun) -> None:
    made = make_run()
    views, _ = select_runs(made.root, Selection())
    cases: list[dict[str, Any]] = [{"prefix": 21}, {"prompts": 7}, {"skip_first": 20}]
    for options, option in zip(cases, ("--prefix", "--prompts", "--skip-first"), strict=True):
        with pytest.raises(InputError, match="no run is left") as caught:
            plan(views, ["embed", "final"], CkaSettings(**options))
        assert caught.value.kind is ErrorKind.NOT_FOUND
        assert str(caught.value).splitlines()[-1] == f"Change {option}."
        assert made.run_id not in str(caught.value)
    with pytest.raises(InputError, match="--sites chooses final alone"):
        plan(views, ["final"])
    assert pairs_of(["final"]) == []


@pytest.mark.slow
def test_the_command_prints_and_stores(make_run: MakeRun) -> None:
    made = make_run()
    runner = CliRunner(env={"COLUMNS": "80"})
    done = runner.invoke(main, ["cka", str(made.root), "--prefix", "10"])
    assert done.exit_code == 0, done.output
    printed = done.stdout.replace(str(made.root), "lpp")
    assert max(map(len, printed.splitlines())) <= 80
    assert "linear CKA, 50 tokens: 6 prompts, prefix 10." in " ".join(done.stdout.split())
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Next: lpp-sql "))
    assert "FROM cka" in line
    csv = runner.invoke(main, ["cka", str(made.root), "--all-pairs", "--format", "csv"])
    assert csv.stdout.splitlines()[0].startswith(
        "run,first_position,prefix,n_prompts,site,other_site"
    )
    assert len(csv.stdout.splitlines()) == 7


@pytest.mark.slow
def test_a_sink_makes_sites_collapsed_and_alike_until_it_is_left_out(
    make_run: MakeRun,
) -> None:
    """Position 0 has one huge column at every site but the first."""

    def with_sink(rows: Array) -> Array:
        rows[0, 0] += 30_000
        return rows

    made = make_run([20] * 6, scale=with_sink, sites=("embed", "block.1", "final"))
    other = make_run([20] * 6, seed=3, sites=("embed", "block.1", "final"), model="b")
    found = table(made.root)
    for run, first, flags in ((made, 0, ["collapsed", "sink"]), (other, 0, []), (made, 2, [])):
        rows = found.filter(run=run.run_id, first_position=first)
        assert rows["flags"].to_list() == [flags, flags]
    assert found.filter(run=other.run_id)["first_position"].unique().to_list() == [0]
    assert min(found.filter(run=made.run_id, first_position=0)["cka"]) > 0.999
    page = cka_page("lpp", found, {made.run_id: "made", other.run_id: "other"})
    first_screen = written(page, "text").partition("Linear CKA of two sites")[0]
    least = min(found.filter(run=made.run_id, first_position=2)["cka"])
    assert number(least) in first_screen  # not the 1.00 of the sink
    assert max(table(made.root, skip_first=1)["cka"]) < 0.3
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["cka", str(made.root), "--skip-first=1"])
    assert "prefix 20, positions from 1 on." in " ".join(done.stdout.split()), done.output
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["cka", str(made.root)])
    assert "] collapsed: " in done.stdout
    assert "] sink: hidden states include attention sinks" in done.stdout


def test_flags_of_one_pair_stand_beside_its_number(make_run: MakeRun) -> None:
    made = make_run([20] * 6, sites=("embed", "block.1", "final"), dim=1)
    assert table(made.root)["flags"].to_list() == [["collapsed"]] * 2  # one column is one direction
    frame = table(made.root).with_columns(flags=pl.Series([["collapsed"], []], dtype=FLAGS))
    page = cka_page("lpp", frame, {made.run_id: "made"})
    shown = written(page, "text").partition("Linear CKA of two sites")[2]
    first, second = (line for line in shown.splitlines() if "block.1" in line)
    assert first.endswith("¹")
    assert not second.endswith("¹")


def test_many_pairs_show_those_that_are_least_alike(make_run: MakeRun) -> None:
    made = make_run(sites=("embed", *(f"block.{k}" for k in range(1, 9)), "final"))
    found = table(made.root, all_pairs=True)
    page = cka_page("lpp", found, {made.run_id: "made"})
    brief, whole = (written(page, "text", everything=everything) for everything in (False, True))
    assert len(brief.splitlines()) <= 40
    least = found.sort("cka").row(0, named=True)
    pair = f"{least['site']} and {least['other_site']}"
    assert f"The least similar sites are {pair} in made." in brief
    assert len(whole.splitlines()) >= len(found) == 45


def test_a_site_without_variance_says_nothing_of_the_other(make_run: MakeRun) -> None:
    def constant_once(rows: Array, sites: list[int] = []) -> Array:  # noqa: B006 - counts calls
        sites.append(0)
        return np.ones_like(rows) if len(sites) <= 6 else rows  # the six prompts of `embed`

    made = make_run(scale=constant_once, sites=("embed", "block.1", "final"), dim=9)
    found = table(made.root)
    assert found["cka"].is_null().to_list() == [True, False]
    assert not any("collapsed" in flags for flags in found["flags"])


def test_a_sink_is_a_position_ten_times_as_long_as_the_others() -> None:
    lengths = (np.ones((5, 8)) + np.arange(8) / 10).astype(np.float32)
    assert sink_positions(lengths).tolist() == []
    lengths[:3, 2] = 15  # in most prompts
    lengths[:2, 5] = 900  # in few
    lengths[4, 6] = np.inf
    lengths[1:, 7] = np.nan
    assert sink_positions(lengths).tolist() == [2]
    assert sink_positions(lengths, 12).tolist() == []
    assert sink_positions(np.full((2, 3), np.nan, np.float32)).tolist() == []
    assert sink_positions(lengths[:, :1]).tolist() == []  # there is no other


def test_without_a_token_there_is_nothing_to_compare(make_run: MakeRun) -> None:
    made = make_run()
    for words in (["--skip-first", "20"], ["--prefix", "5", "--skip-first", "5"]):
        done = CliRunner().invoke(main, ["cka", str(made.root), *words])
        assert done.exit_code == 2
        assert "(--skip-first): no token is left" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_flags_are_of_the_tokens_compared(make_run: MakeRun) -> None:
    made = make_run([20] * 5 + [3], model="a/one")  # 1 of 6 is short
    make_run([20] * 6, model="b/two", seed=1, tokenizer="another")

    def flags(**options: Any) -> set[tuple[str, ...]]:
        return set(map(tuple, table(made.root, **options)["flags"].to_list()))

    assert flags(prefix=3) == {()}
    assert flags() == {("short_text",), ()}
    assert flags(prefix=3, prompts=1) == {("small_sample",)}
    make_run([20] * 6, model="c/three", prompt_set="q", first_row=500)
    assert flags(prefix=3) == {("different_prompts",)}
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["cka", str(made.root), "--prefix", "3"])
    assert "] different_prompts: " in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
