"""Replicates solved in float32 against float64 solves, and against SVDs of the rows left."""

import shutil
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from made_runs import MakeRun
from paired_runs import paired, write_over

from lpp.analyze import ProfileSettings, analyze
from lpp.analyze.drift.sites import site_drift
from lpp.analyze.metrics.spectral import power_law, rankme
from lpp.analyze.numerics import replicates
from lpp.analyze.numerics.jackknife import jackknife
from lpp.analyze.numerics.replicates import float32_eigenvalues
from lpp.analyze.numerics.spectrum import effective_rank, top_share
from lpp.analyze.runs.cells import Cell
from lpp.store import open_store

Floats = npt.NDArray[np.float64]
DIM = 300
DECAY = 1.0 / np.arange(1, DIM + 1)
SINK = 23_000.0**2


def scatter(values: Sequence[float] | Floats) -> Floats:
    """A matrix with these eigenvalues, in a random basis."""
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, DIM)))[0]
    matrix: Floats = (basis * values) @ basis.T
    return matrix + matrix.T


@pytest.mark.parametrize("scale", [1e-70, 1.0, 1e70])
@pytest.mark.parametrize(
    "outliers",
    [[], [5.0], [1e3], [SINK], [1e10], [1e8, 1e5], [1e7, 1e5, 1e3], [1e9, 1e7, 1e5, 1e3, 60]],
)
def test_numbers_are_those_of_float64_beside_dominating_directions(
    outliers: list[float], scale: float
) -> None:
    matrix = scatter([*outliers, *DECAY[len(outliers) :]]) * scale
    found, solved = float32_eigenvalues(matrix), np.linalg.eigvalsh(matrix)[::-1].astype(float)
    assert found is not None
    assert (np.diff(found) <= 0).all()
    for number in (effective_rank, rankme, top_share):
        assert number(found) == pytest.approx(number(solved), rel=1e-5)
    assert effective_rank(found) - 1 == pytest.approx(effective_rank(solved) - 1, rel=1e-3)
    if not outliers or outliers[0] < 1e9:
        assert power_law(found) == pytest.approx(power_law(solved), rel=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        np.where(DECAY > 1 / 150, DECAY, 0.0),
        DECAY**4,
        [1e9, 1e9, *DECAY[2:]],  # the power iteration finds no single direction
        [1.0, *[0.0] * (DIM - 1)],
        [0.0] * DIM,
        [*DECAY[:-1], -1e-3],
        [np.nan] * DIM,
    ],
)
def test_spectra_that_float32_cannot_hold_are_left_to_float64(values: Floats) -> None:
    assert float32_eigenvalues(scatter(values)) is None


def test_one_direction_without_variance_is_no_reason_for_float64() -> None:
    """As after a LayerNorm, at its place."""
    found = float32_eigenvalues(scatter([*DECAY[:-1], 0.0]))
    assert found is not None
    assert rankme(np.clip(found, 0, None)) == pytest.approx(rankme(DECAY[:-1]), rel=1e-3)
    dead = scatter(DECAY)
    dead[3] = dead[:, 3] = 0
    assert float32_eigenvalues(dead) is not None


def sink(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    rows[0] = 0
    rows[0, 7] = 23_000 + len(rows)
    return rows


@pytest.mark.slow
def test_errors_are_those_of_prompts_removed_and_values_keep_every_bit(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[bool] = []

    def counted(matrix: Floats) -> Floats | None:
        found = float32_eigenvalues(matrix)
        solved.append(found is not None)
        return found

    monkeypatch.setattr(replicates, "float32_eigenvalues", counted)
    made = make_run([20] * 40, dim=DIM, sites=("final",), scale=sink)
    of_final = {}
    for errors in ("all", "none"):
        found = analyze(made.root, ProfileSettings(contexts=[20], errors=errors)).spectra
        of_final[errors] = found.filter(prefix=20).row(0, named=True)
    assert solved
    assert all(solved)
    for name in ("effective_rank", "participation_ratio", "top_share"):
        assert of_final["all"][name] == of_final["none"][name]
    values = []
    for part in [Cell(40, 20), *Cell(40, 20).parts(10)]:
        rows = np.concatenate([made.hidden["final"][k] for k in np.flatnonzero(part.stays)])
        wide = rows.astype(np.float64)
        values.append(effective_rank(np.linalg.svd(wide - wide.mean(0), compute_uv=False) ** 2))
    assert of_final["all"]["effective_rank"] == pytest.approx(values[0], rel=1e-9)
    expected = jackknife(values[0], values[1:]).stderr
    assert of_final["all"]["effective_rank_stderr"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_value_without_the_prompts_of_a_group_is_solved_in_float64(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run B set aside the very prompts that a replicate of run A leaves out."""
    made = make_run([20] * 40, dim=DIM, sites=("final",))
    hidden = {site: [x + x**2 for x in rows] for site, rows in made.hidden.items()}
    hidden["final"][:4] = [np.full_like(x, np.nan) for x in hidden["final"][:4]]
    b = write_over(made, hidden, aside=[0, 1, 2, 3])
    pair = paired(open_store(made.root).runs[made.run_id], b)
    first = analyze(made.root, ProfileSettings(errors="all")).spectra
    monkeypatch.setattr(replicates, "float32_eigenvalues", None)
    after = site_drift(pair, errors="none")
    shutil.rmtree(made.root / "analysis")
    assert site_drift(pair, errors="none") == after
    monkeypatch.undo()
    assert analyze(made.root, ProfileSettings(errors="all")).spectra.equals(first)
