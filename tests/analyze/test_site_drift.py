"""Drift of whole sites against plain float64 over whole arrays."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import Made, MakeRun
from on_disk import on_disk
from paired_runs import Array, Hidden, paired, write_over

from lpp.analyze import ProfileSettings, analyze
from lpp.analyze.drift import site_numbers
from lpp.analyze.drift.kept import KeptDrift
from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.sites import SiteDrift, site_drift, why_missing
from lpp.analyze.engine import executor as of_executor
from lpp.analyze.engine.cache import Cache
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.quantities.drift import RANK_CHANGES, SITE_CHANGES
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.named import names_of_two
from lpp.analyze.tables.spectra import scan_spectra
from lpp.store import Run, open_store
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.progress import Progress

SITES = ("embed", "block.1", "block.2", "final")
OF_ROWS = [name for name in SITE_CHANGES if name != "expert_change"]  # which routers alone have
LENGTHS = (12, 7, 20, 20, 3, 15, 20, 9, 11, 20, 20, 5)


def forget(pair: Pair) -> None:
    """Remove what was kept."""
    shutil.rmtree(on_disk(KeptDrift(pair).folder))


def known(estimate: Estimate) -> float:
    """The value of an estimate that has one."""
    assert estimate.value is not None
    return estimate.value


def moved(hidden: Hidden, *, by: float = 0.3, seed: int = 9) -> dict[str, list[Array]]:
    """The same rows with noise, more of it the deeper, none at the first site."""
    rng = np.random.default_rng(seed)
    return {
        site: [(x + by * k * rng.normal(size=x.shape)).astype(np.float32) for x in rows]
        for k, (site, rows) in enumerate(hidden.items())
    }


@pytest.fixture
def made(make_run: MakeRun) -> Made:
    return make_run(LENGTHS, dim=12, sites=SITES, per_shard=4)


def run_of(made: Made) -> Run:
    return open_store(made.root).runs[made.run_id]


def slow(x: Array, y: Array) -> dict[str, float]:
    """Every number from whole arrays of the same tokens, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    found = {}
    if x.shape == y.shape:
        lengths, others = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
        found["relative_distance"] = np.mean(np.linalg.norm(x - y, axis=1) / lengths)
        found["cosine"] = np.mean((x * y).sum(axis=1) / lengths / others)
        with np.errstate(divide="ignore"):
            found["sqnr"] = 10 * np.log10(np.square(x).sum() / np.square(y - x).sum())
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cross = np.square(y.T @ x).sum()
    found["cka"] = cross / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    if x.shape == y.shape:
        u, v = (np.linalg.svd(z, full_matrices=False)[2][:10] for z in (x, y))
        found["overlap"] = np.square(u @ v.T).sum() / len(u)
        share = [np.square(np.linalg.svd(z, compute_uv=False)) for z in (x, y)]
        share = [some / some.sum() for some in share]
        ratios = [1 / np.square(p).sum() for p in share]
        ranks = [np.exp(-(p * np.log(p)).sum()) for p in share]
        found["participation_ratio"] = ratios[1] - ratios[0]
        found["effective_rank"] = ranks[1] - ranks[0]
    return {name: float(value) for name, value in found.items()}


def tokens_of(rows: Sequence[Array], cell: Cell, aside: Sequence[int] = ()) -> Array:
    ((first, end),) = cell.excluded or ((0, 0),)
    return np.concatenate(
        [
            rows[k][cell.first_position : cell.prefix]
            for k in range(cell.n_prompts)
            if k not in aside and not first <= k < end
        ]
    )


def check(
    found: SiteDrift, a: Sequence[Array], b: Sequence[Array], cell: Cell, aside: Sequence[int] = ()
) -> None:
    """Values and errors of `found` against a computation again without each group."""
    cells = [cell, *cell.parts(10)]
    every = [slow(tokens_of(a, c, aside), tokens_of(b, c, aside)) for c in cells]
    assert found.n_tokens == len(tokens_of(a, cell, aside))
    for name in every[0]:
        value, *parts = (numbers[name] for numbers in every)
        estimate = getattr(found, name)
        assert estimate.value == pytest.approx(value, rel=1e-9, abs=1e-10), name
        if not np.isfinite(parts).all():  # one group has all the noise
            assert (name, estimate[1:]) == ("sqnr", Estimate(None)[1:])
            continue
        error = np.sqrt(
            (len(parts) - 1) / len(parts) * np.square(np.array(parts) - np.mean(parts)).sum()
        )
        assert estimate.stderr == pytest.approx(error, rel=1e-6, abs=1e-10), name
        assert estimate.groups == pytest.approx(tuple(parts), rel=1e-9, abs=1e-10), name
        assert estimate.ci_low <= estimate.value <= estimate.ci_high


@pytest.mark.parametrize("block_rows", [3, 1024])
def test_every_number_and_error_is_that_of_whole_arrays(
    made: Made, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of the two runs end at different prompts."""
    monkeypatch.setattr(site_numbers, "BLOCK_ROWS", block_rows)
    other = moved(made.hidden)
    b = write_over(made, other, ends=(1, 5, 11))
    found = site_drift(paired(run_of(made), b), errors="all")
    assert [one.site for one in found] == list(SITES)
    assert [one.depth for one in found] == [0, 1, 2, 2]
    for one in found[1:]:
        check(one, made.hidden[one.site], other[one.site], Cell(12, 20))
    assert known(found[1].relative_distance) < known(found[3].relative_distance)
    assert known(found[1].cka) > known(found[3].cka)


@pytest.mark.parametrize(("first", "prefix", "n"), [(1, 20, 12), (2, 7, 11), (0, 15, 3)])
def test_positions_and_prompts_that_take_no_part(
    made: Made, first: int, prefix: int, n: int
) -> None:
    a, b = moved(made.hidden, seed=1), moved(made.hidden, seed=2)
    for rows in (a, b):  # what is not asked for would be seen
        for k, one in enumerate(rows["final"]):
            one[:first] = one[prefix:] = 1e6
            if k >= n:
                one[:] = np.nan
    runs = write_over(made, a, model="model/a", ends=(3,)), write_over(made, b, ends=(11,))
    (found,) = site_drift(paired(*runs, n), ["final"], first_position=first, prefix=prefix)
    check(found, a["final"], b["final"], Cell(n, prefix, first_position=first))


def test_prompts_that_either_run_set_aside_are_left_out_of_both(made: Made) -> None:
    a, b = moved(made.hidden, seed=1), moved(made.hidden, seed=2)
    a["final"][2][:] = np.nan
    b["final"][5][:] = np.inf
    runs = (
        write_over(made, a, model="model/a", ends=(3, 6), aside=[2]),
        write_over(made, b, ends=(6,), aside=[5, 9]),
    )
    pair = paired(*runs)
    assert pair.excluded.tolist() == [2, 5, 9]
    (found,) = site_drift(pair, ["final"])
    check(found, a["final"], b["final"], Cell(12, 20), aside=[2, 5, 9])
    with pytest.raises(FormatError, match="rows where its prompts have"):
        site_drift(replace(pair, excluded=np.array([2, 9])), ["final"])


def exact(one: SiteDrift) -> None:
    """As of a model against itself."""
    for name in OF_ROWS:
        value = {"cosine": 1.0, "cka": 1.0, "overlap": 1.0, "sqnr": np.inf}.get(name, 0.0)
        assert getattr(one, name)[:4] == (value, 0.0, value, value), name


@pytest.mark.slow
def test_a_run_against_itself_has_not_drifted_and_says_so_exactly(
    make_run: MakeRun, tmp_path: Path
) -> None:
    made = make_run([30] * 20, context=30, dim=40, sites=SITES)
    run = run_of(made)
    again = write_over(made, made.hidden, root=tmp_path / "again", ends=(7, 13))
    for pair in (paired(run, run), paired(run, again)):
        for one in site_drift(pair, errors="all"):
            exact(one)
    for first in (1, 29):
        for one in site_drift(paired(run, again), errors="all", first_position=first):
            exact(one)


def test_rows_that_begin_equal_and_part_later(made: Made) -> None:
    """The products of one run serve both until then."""
    other = {site: [x.copy() for x in rows] for site, rows in made.hidden.items()}
    other["final"][9][4] += 1
    other["block.1"][11][0, 0] += 1e-3
    for one in site_drift(paired(run_of(made), write_over(made, other)), errors="all"):
        if one.site in ("final", "block.1"):
            check(one, made.hidden[one.site], other[one.site], Cell(12, 20))
            assert known(one.cka) < 1
            assert known(one.relative_distance) > 0
        else:
            exact(one)


def test_a_rotation_and_a_scale_change_cka_and_ranks_not_at_all(made: Made) -> None:
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(12, 12)))[0]
    other = {
        site: [(3 * x.astype(float) @ turn + 2).astype(np.float32) for x in rows]
        for site, rows in made.hidden.items()
    }
    for one in site_drift(paired(run_of(made), write_over(made, other))):
        assert one.cka.value == pytest.approx(1, rel=1e-6)
        assert one.participation_ratio.value == pytest.approx(0, abs=1e-5)
        assert one.effective_rank.value == pytest.approx(0, abs=1e-5)
        assert known(one.cosine) < 0.9
        assert known(one.overlap) < 0.999


def test_exchanging_the_runs_turns_differences_round(made: Made) -> None:
    a, b = run_of(made), write_over(made, moved(made.hidden))
    for one, other in zip(site_drift(paired(a, b)), site_drift(paired(b, a)), strict=True):
        for name in ("cosine", "cka", "overlap"):
            assert getattr(one, name).value == pytest.approx(getattr(other, name).value, rel=1e-12)
        for name in RANK_CHANGES:
            assert getattr(one, name).value == -getattr(other, name).value
            assert getattr(one, name).stderr == pytest.approx(getattr(other, name).stderr)


def test_of_different_widths_there_is_cka_alone(made: Made) -> None:
    other = {site: [x[:, :7].copy() for x in rows] for site, rows in made.hidden.items()}
    pair = paired(run_of(made), write_over(made, other, ends=(5,)))
    for one in site_drift(pair, errors="all"):
        check(one, made.hidden[one.site], other[one.site], Cell(12, 20))
        assert all(getattr(one, name) == Estimate(None) for name in SITE_CHANGES if name != "cka")
        assert "12 columns in run" in (why_missing(pair, one.site) or "")
    assert site_drift(pair, only=["cosine"])[0].cka == Estimate(None)


@pytest.mark.parametrize("jobs", [2, 5])
def test_any_number_of_jobs_gives_the_same_bits(made: Made, jobs: int) -> None:
    pair = paired(run_of(made), write_over(made, moved(made.hidden), ends=(5,)))
    found = site_drift(pair, errors="all", jobs=jobs)
    forget(pair)
    assert site_drift(pair, errors="all", jobs=1) == found


def test_little_memory_gives_the_same_bits(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = paired(run_of(made), write_over(made, moved(made.hidden)))
    expected = site_drift(pair, jobs=3)
    forget(pair)
    monkeypatch.setattr(of_executor, "free_bytes", lambda: 0)
    assert site_drift(pair, jobs=3) == expected


@pytest.mark.slow
def test_errors_that_cost_a_read_are_of_the_deepest_site_by_default(made: Made) -> None:
    pair = paired(run_of(made), write_over(made, moved(made.hidden)))

    def sure(name: str, **options: Any) -> list[str]:
        found = site_drift(pair, **options)
        return [one.site for one in found if getattr(one, name).stderr is not None]

    assert sure("cka") == sure("overlap") == sure("effective_rank") == ["final"]
    assert sure("cka", sites=["block.*"]) == ["block.2"]
    assert sure("cka", errors="none") == []
    assert sure("relative_distance", errors="none") == sure("cosine", errors="none") == list(SITES)
    assert sure("participation_ratio", errors="all") == list(SITES)


def test_one_prompt_has_values_and_no_errors(made: Made) -> None:
    (found,) = site_drift(paired(run_of(made), write_over(made, moved(made.hidden)), 1), ["final"])
    for name in OF_ROWS:
        assert getattr(found, name) == Estimate(getattr(found, name).value)
        assert getattr(found, name).value is not None
    assert found.n_tokens == 12


def test_without_a_token_there_is_nothing(made: Made) -> None:
    for b in (run_of(made), write_over(made, moved(made.hidden))):
        (found,) = site_drift(paired(run_of(made), b, 1), ["final"], first_position=12)
        assert found.n_tokens == 0
        assert all(getattr(found, name) == Estimate(None) for name in SITE_CHANGES)


def test_rows_that_are_not_finite_and_tokens_without_a_number_give_none(made: Made) -> None:
    other = moved(made.hidden)
    other["embed"][3][2, 1] = np.inf
    other["block.1"][3][2, 1] = np.nan
    zero = {site: [x.copy() for x in rows] for site, rows in made.hidden.items()}
    zero["block.2"][0][0] = 0
    a, b = write_over(made, zero, model="model/a"), write_over(made, other)
    found = {one.site: one for one in site_drift(paired(a, b), errors="all")}
    for site in ("embed", "block.1"):
        for name in OF_ROWS:
            assert getattr(found[site], name) == Estimate(None), name
    assert found["block.2"].relative_distance == found["block.2"].cosine == Estimate(None)
    assert found["block.2"].cka.stderr is not None
    assert found["final"].cosine.stderr is not None
    turned = {one.site: one for one in site_drift(paired(b, a))}
    assert turned["block.2"].relative_distance.value is not None
    assert turned["block.2"].cosine == Estimate(None)


def test_without_variance_there_is_no_cka_and_no_overlap(made: Made) -> None:
    flat = {site: [np.ones_like(x) for x in rows] for site, rows in made.hidden.items()}
    pair = paired(run_of(made), write_over(made, flat))
    (found,) = site_drift(pair, ["final"])
    assert found.cka == found.overlap == Estimate(None)
    assert known(found.participation_ratio) < 0
    (same,) = site_drift(paired(pair.b.run, pair.b.run), ["final"])
    assert same.cka == same.overlap == Estimate(None)
    assert same.relative_distance[:2] == same.participation_ratio[:2] == (0, 0)
    assert same.cosine[:2] == (1, 0)


def test_differences_of_ranks_are_those_of_the_spectra_table(made: Made) -> None:
    a, b = run_of(made), write_over(made, moved(made.hidden))
    (found,) = site_drift(paired(a, b), ["final"])
    table = scan_spectra(made.root).collect().filter(site="final", prefix=20)
    for name in RANK_CHANGES:
        values = dict(table.select("run", name).iter_rows())
        assert getattr(found, name).value == pytest.approx(values[b.id] - values[a.id], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 2])
def test_what_a_profile_kept_of_each_run_is_not_multiplied_again(made: Made, first: int) -> None:
    """Also of errors at the deepest site, which has them by default."""
    a, b = run_of(made), write_over(made, moved(made.hidden))
    before = site_drift(paired(a, b), first_position=first)
    shutil.rmtree(made.root / "analysis")
    analyze(made.root, ProfileSettings(skip_first=[first]))

    def kept() -> set[Path]:
        return {p for run in (a, b) for p in on_disk(Cache(made.root, run).folder).rglob("*.arrow")}

    profiled = kept()
    assert site_drift(paired(a, b), first_position=first) == before
    assert kept() == profiled
    for path in profiled:  # as of a profile by an earlier release
        if path.name.startswith("leading"):
            path.unlink()
    assert site_drift(paired(a, b), first_position=first) == before
    assert {path.name.partition("-")[0] for path in kept() - profiled} == {"spectra"}


def test_common_sites_by_depth_and_what_is_not_common(made: Made) -> None:
    hidden = {site: rows for site, rows in made.hidden.items() if site != "block.1"}
    a, b = run_of(made), write_over(made, hidden)
    told: list[str] = []

    class Told(Progress):
        def advance(self, amount: int = 1) -> None:
            told.append(f"+{amount}")

        def note(self, text: str) -> None:
            told.append(text)

    found = site_drift(paired(a, b), ["final", "embed"], progress=Told())
    assert [one.site for one in found] == ["embed", "final"]
    each = names_of_two(RunView(a), RunView(b))
    tokens, names = f"+{sum(LENGTHS)}", " and ".join(each)
    spectra = [f"spectra at {site} of {name}" for site in ("embed", "final") for name in each]
    assert told == [*spectra, tokens, f"embed of {names}", tokens, f"final of {names}"]
    assert [one.site for one in site_drift(paired(a, b))] == list(hidden)
    with pytest.raises(InputError, match=r"no site 'block.1'; .* There is embed, block.2, final"):
        site_drift(paired(a, b), ["block.1"])
    alone = write_over(made, {"block.3": made.hidden["final"]}, model="model/c")
    with pytest.raises(InputError, match="hold no site in common") as caught:
        site_drift(paired(a, alone))
    assert caught.value.kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize(("first", "prefix"), [(20, None), (-1, None), (5, 5), (0, 21), (0, 0)])
def test_positions_that_there_are_not(made: Made, first: int, prefix: int | None) -> None:
    pair = paired(run_of(made), run_of(made))
    with pytest.raises(InputError, match=r"both runs have positions 0 to 19"):
        site_drift(pair, first_position=first, prefix=prefix)
