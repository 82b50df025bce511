"""Spectra of the rows from a first position on: keys, flags, profiles, both curves of `layers`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from click.testing import CliRunner
from made_runs import Made, MakeRun

from lpp.analyze import (
    LayersSettings,
    ProfileSettings,
    analyze,
    scan_metrics,
    scan_spectra,
)
from lpp.analyze.cli.command import main
from lpp.analyze.engine.estimates import SiteRequest
from lpp.analyze.engine.executor import LocalExecutor
from lpp.analyze.metrics.registry import METRICS, SINKS
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.pages.words import number
from lpp.analyze.pages.write import written
from lpp.analyze.runs.cells import Cell
from lpp.analyze.studies.layers import Layers, layers
from lpp.analyze.studies.pages.layers_page import layers_page
from lpp.analyze.tables.build import write_database
from lpp.store.errors import InputError

Floats = npt.NDArray[np.float64]
SITES = ("embed", *(f"block.{k}" for k in range(1, 7)), "final")
WITH_SINKS = ("block.2", "block.3", "block.4", "block.5")
N_SINKS = 2

engine = pytest.mark.skipif(
    not set(SINKS) <= METRICS.keys(), reason="needs the engine that computes first positions"
)


@pytest.fixture
def sunk(make_run: MakeRun) -> Made:
    """Eight prompts; the first two tokens of each are huge at four of six blocks."""
    lengths = [20, 20, 20, 20, 15, 20, 9, 20]
    calls = iter(range(10**6))

    def scale(rows: Any) -> Any:
        site = SITES[next(calls) // len(lengths)]  # the fixture scales site by site
        if site in WITH_SINKS:
            rows[:N_SINKS] = 1e4 * (1 + rows[:N_SINKS] / 1e3)
        return rows

    return make_run(lengths, sites=SITES, scale=scale)


def rows_of(made: Made, site: str, cell: Cell) -> Floats:
    parts = (rows[cell.first_position : cell.prefix] for rows in made.hidden[site])
    return np.concatenate(list(parts)[: cell.n_prompts]).astype(np.float64)


def eigenvalues(rows: Floats) -> Floats:
    found: Floats = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    return found[: min(rows.shape)]


def participation_ratio(rows: Floats) -> float:
    found = eigenvalues(rows)
    return float(found.sum() ** 2 / (found**2).sum())


def effective_rank(rows: Floats) -> float:
    shares = eigenvalues(rows)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def standardised(rows: Floats) -> Floats:
    found: Floats = (rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)
    return found


def sinks(made: Made, site: str) -> list[int]:
    """Positions whose median norm is over ten times the median over the rows elsewhere."""
    norms = [np.linalg.norm(rows.astype(np.float64), axis=1) for rows in made.hidden[site]]
    found = []
    for position in range(max(map(len, norms))):
        here = np.median([row[position] for row in norms if len(row) > position])
        others = np.median(np.concatenate([row[np.arange(len(row)) != position] for row in norms]))
        if here > 10 * others:
            found.append(position)
    return found


def reference(made: Made, site: str, cell: Cell) -> Mapping[str, float]:
    rows = rows_of(made, site, cell)
    ratio, rank, there = participation_ratio(rows), effective_rank(rows), sinks(made, site)
    return {
        "participation_ratio": ratio,
        "participation_ratio_norm": ratio / min(rows.shape),
        "effective_rank": rank,
        "effective_rank_norm": rank / min(rows.shape),
        "top_share": float(eigenvalues(rows)[0] / eigenvalues(rows).sum()),
        "zscore_participation_ratio": participation_ratio(standardised(rows)),
        "zscore_effective_rank": effective_rank(standardised(rows)),
        "n_sinks": sum(cell.first_position <= p < cell.prefix for p in there),
        "sink_end": max(there, default=-1) + 1,
    }


class Plain(LocalExecutor):
    """An executor that computes from the rows that were written, the plain way, without errors."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.made = made
        self.calls: list[set[int]] = []
        """First positions of each call."""

    def estimates(
        self, work: Iterable[SiteRequest]
    ) -> Iterator[Mapping[tuple[Cell, str], Estimate]]:
        some = list(work)
        self.calls.append({cell.first_position for one in some for cell in one.cells})
        for one in some:
            yield {
                (cell, name): Estimate(value)
                for cell in one.cells
                for name, value in reference(self.made, one.site, cell).items()
            }


# keys


def test_keys_are_those_of_the_rows_from_the_first_position_on(make_run: MakeRun) -> None:
    lengths = [12, 7, 20, 20, 3, 15]
    made = make_run(lengths)
    names = ["prefix", "n_prompts", "first_position", "n_tokens", "dim", "rank_bound"]
    scan = scan_spectra(made.root, prompts=[3, 6], skip_first=[0, 5])
    keys = scan.filter(site="final").select(names).collect()
    assert set(keys["first_position"]) == {0, 5}
    assert sorted(set(keys.filter(first_position=5)["prefix"])) == list(range(6, 21, 2))
    for prefix, size, first, tokens, dim, bound in keys.rows():
        assert tokens == sum(len(range(t)[first:prefix]) for t in lengths[:size])
        assert bound == min(tokens, dim)


def test_metrics_of_the_logits_skip_nothing(make_run: MakeRun) -> None:
    made = make_run()
    scan = scan_metrics(made.root, metrics=["rankme", "surprisal"], skip_first=[3])
    keys = scan.select("metric", "prefix", "first_position").unique().collect()
    firsts = dict(keys.group_by("metric").agg(pl.col("first_position").unique()).rows())
    assert firsts == {"rankme": [3], "surprisal": [0]}
    assert keys.filter(metric="rankme")["prefix"].min() == 4
    assert keys.filter(metric="surprisal")["prefix"].min() == 2


@pytest.mark.parametrize("command", ["profile", "layers"])
def test_a_position_beyond_every_prefix_is_told(make_run: MakeRun, command: str) -> None:
    made = make_run()
    done = CliRunner().invoke(main, [command, str(made.root), "--skip-first", "0,20"])
    assert done.exit_code == 2
    assert (
        "--skip-first 20: the longest context here has 20 positions. Skip 0 to 19." in done.stderr
    )
    with pytest.raises(InputError, match=r"--skip-first 10: .* has 10 positions"):
        analyze(made.root, ProfileSettings(contexts=[10], skip_first=[10]))


# profiles


@pytest.mark.slow
def test_profiles_of_each_first_position(sunk: Made) -> None:
    asked = ProfileSettings(sites=["block.3", "final"], skip_first=[0, 3])
    analysis = analyze(sunk.root, replace(asked, errors="none"), executor=Plain(sunk))
    found = analysis.profiles()
    assert len(found) == 2 * 2
    for row in found.iter_rows(named=True):
        first = row["first_position"]
        there = [prefix for prefix in range(2, 21, 2) if prefix > first]
        assert row["prefixes"] == there
        ranks = {
            prefix: participation_ratio(
                rows_of(sunk, row["site"], Cell(8, prefix, first_position=first))
            )
            for prefix in there
        }
        assert row["participation_ratio"] == pytest.approx(max(ranks.values()))
        assert row["participation_ratio_prefix"] == max(ranks, key=ranks.__getitem__)
        assert ("sink" in row["flags"]) == (row["site"] == "block.3" and first == 0)
    assert found["entropy_floor"].n_unique() == 1  # which no position is left out of
    database = write_database(sunk.root, analysis)
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute(
            "SELECT first_position, n_sinks, sink_end FROM spectra "
            "WHERE site = 'block.3' AND prefix = 4 ORDER BY ALL"
        ).fetchall()
        assert rows == [(0, 2, 2), (3, 0, 2)]
        profiles = "SELECT site, first_position FROM profiles ORDER BY ALL"
        assert connection.execute(profiles).fetchall() == [("final", 0), ("final", 3)]


def test_sinks_of_the_metrics_own_rows(sunk: Made) -> None:
    asked = ProfileSettings(sites=["block.3", "final"], skip_first=[0, 3])
    found = analyze(
        sunk.root,
        replace(asked, metrics=["zscore_effective_rank", "surprisal"], errors="none"),
        executor=Plain(sunk),
    ).metrics
    flagged = found.filter(pl.col("flags").list.contains("sink"))
    assert set(flagged.select("site", "first_position").rows()) == {("block.3", 0)}
    assert "zscore_effective_rank" in flagged["metric"]
    assert set(found.filter(metric="surprisal")["first_position"]) == {0}


# duplicates, and errors of 0


def test_prompts_that_are_there_more_than_once(make_run: MakeRun) -> None:
    made = make_run([12] * 6, order=[0, 1, 2] * 2, sites=("final",))
    found = analyze(made.root, ProfileSettings(prompts=[3, 4, 6]))
    for frame in (found.spectra, found.entropy):
        counts = frame.select("n_prompts", "n_duplicates").unique().sort("n_prompts").rows()
        assert counts == [(3, 0), (4, 2), (6, 6)]
    flagged = {
        row["n_prompts"]: "duplicates" in row["flags"] for row in found.profiles().to_dicts()
    }
    assert flagged == {3: False, 4: True, 6: True}


@pytest.mark.slow
def test_prompts_that_are_all_alike_have_an_error_of_nothing(make_run: MakeRun) -> None:
    made = make_run([12] * 12, order=[0] * 12, sites=("final",))
    (row,) = analyze(made.root).profiles().to_dicts()
    assert row["entropy_floor_stderr"] == 0
    assert {"duplicates", "zero_error"} <= set(row["flags"])
    made = make_run([12], sites=("final",), model="one")
    (row,) = analyze(made.root, ProfileSettings(runs=["one-*"])).profiles().to_dicts()
    assert not {"duplicates", "zero_error"} & set(row["flags"])


# layers


def test_a_run_with_sinks_has_both_curves(sunk: Made) -> None:
    plain = Plain(sunk)
    found = layers(sunk.root, executor=plain)
    # found in the first pass; the second leaves them out, and one position more
    assert plain.calls == [{0}, {N_SINKS + 1}]
    assert len(found.layers_frame()) == 2 * len(SITES)
    for row in found.layers_frame().iter_rows(named=True):
        first = row["first_position"]
        rows = rows_of(sunk, row["site"], Cell(8, 20, first_position=first))
        assert row["n_tokens"] == len(rows)
        assert row["participation_ratio"] == pytest.approx(participation_ratio(rows))
        assert row["effective_rank_norm"] == pytest.approx(effective_rank(rows) / 6)
        assert row["sink_end"] == (N_SINKS if row["site"] in WITH_SINKS else 0)
        there = row["site"] in WITH_SINKS and first == 0
        assert row["n_sinks"] == (N_SINKS if there else 0)
        assert ("sink" in row["flags"]) == ("collapsed" in row["flags"]) == there
    scores = found.hourglass_frame().sort("first_position")
    assert scores["first_position"].to_list() == [0, N_SINKS + 1]
    assert scores["n_collapsed"].to_list() == [len(WITH_SINKS), 0]
    assert scores["score"].is_null().to_list() == [True, False]


def shown(found: Layers) -> str:
    names = dict.fromkeys(found.layers_frame()["run"].unique(), "model")
    return written(
        layers_page(
            "lpp",
            found.layers_frame(),
            found.hourglass_frame(),
            found.left_out,
            names,
            experts=found.expert_load_frame(),
        ),
        "text",
        everything=True,
    )


def test_the_page_says_what_sinks_do(sunk: Made) -> None:
    found = layers(sunk.root, executor=Plain(sunk))
    words = " ".join(shown(found).split())
    assert "the first 2 positions of 4 of its 8 layers hold attention sinks:" in words
    after = found.layers_frame().filter(pl.col("site").is_in(WITH_SINKS), first_position=3)
    least, most = (number(end(after["participation_ratio"])) for end in (min, max))
    told = (
        f"Without the first 3 positions the PR of these layers is {least} to {most} instead of 1."
    )
    assert told in words
    assert "without the first 3 positions is" in words


def test_a_run_without_sinks_has_one_curve(make_run: MakeRun) -> None:
    made = make_run(sites=SITES)
    plain = Plain(made)
    found = layers(made.root, executor=plain)
    assert plain.calls == [{0}]
    assert set(found.layers_frame()["first_position"]) == {0}
    assert "attention sinks" not in shown(found)


def test_first_positions_that_are_asked_for_and_no_others(sunk: Made) -> None:
    found = layers(sunk.root, LayersSettings(skip_first=[1, 5]), executor=Plain(sunk))
    assert set(found.layers_frame()["first_position"]) == {1, 5}
    sunken = found.layers_frame().filter(first_position=1, site="block.3")
    assert sunken["n_sinks"].to_list() == [1]
    assert sunken["flags"].list.contains("sink").all()  # one is still among the rows


# the engine against the same plain numbers


@pytest.mark.slow
@engine
def test_scans_equal_the_plain_numbers(sunk: Made) -> None:
    found = scan_spectra(sunk.root, prompts=[3, 8], skip_first=[0, 1, 2, 5]).collect()
    assert len(found) == len(SITES) * 2 * (10 + 10 + 9 + 8)
    for row in found.iter_rows(named=True):
        cell = Cell(row["n_prompts"], row["prefix"], first_position=row["first_position"])
        expected = reference(sunk, row["site"], cell)
        for name in ("participation_ratio", "effective_rank", "top_share", *SINKS):
            assert row[name] == pytest.approx(expected[name], rel=1e-9), (name, cell)


@engine
def test_errors_leave_the_same_groups_out(sunk: Made) -> None:
    scan = scan_spectra(sunk.root, skip_first=[2], groups=10).filter(site="block.3", prefix=20)
    (row,) = scan.collect().to_dicts()
    parts = np.array(
        [
            participation_ratio(
                np.concatenate(
                    [r[2:20] for k, r in enumerate(sunk.hidden["block.3"]) if k != left_out]
                ).astype(np.float64)
            )
            for left_out in range(8)
        ]
    )
    expected = np.sqrt(7 / 8 * np.square(parts - parts.mean()).sum())
    assert row["participation_ratio_stderr"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@engine
def test_commands_show_both_curves_and_store_them(sunk: Made) -> None:
    done = CliRunner().invoke(main, ["layers", str(sunk.root), "--errors", "final", "--all"])
    assert done.exit_code == 0, done.output
    assert "the first 2 positions of 4 of its 8 layers hold attention sinks" in " ".join(
        done.stdout.split()
    )
    done = CliRunner().invoke(main, ["profile", str(sunk.root), "--skip-first", "0,2", "--all"])
    assert done.exit_code == 0, done.output
    assert "Ranks of rows from position 2 on; entropy of all." in " ".join(done.stdout.split())
    with duckdb.connect(str(sunk.root / "profiles.duckdb"), read_only=True) as connection:
        for table, rows in (("layers", 2 * 8), ("site_profiles", 2 * 8), ("hourglass", 2)):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(rows,)]
