"""A number has the same bits whatever was asked for beside it, and whatever was kept before."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import MakeRun

from lpp.analyze import ProfileSettings, analyze
from lpp.analyze.engine import accumulate
from lpp.analyze.metrics.row_measures.exact_sums import split
from lpp.analyze.numerics import moments
from lpp.analyze.runs.rows import site_reader, wide_block

LENGTHS = [20, 3, 20, 11, 20, 20, 1, 20, 7, 20, 20, 20, 2, 20, 20, 5, 20, 20, 20, 20]

REQUESTS: list[dict[str, Any]] = [
    {},
    {"contexts": [13]},
    {"contexts": [7, 13, 20]},
    {"skip_first": [3]},
    {"skip_first": [0, 1, 3], "contexts": [13, 20]},
    {"prompts": [7]},
    {"prompts": [5, 7, 20], "contexts": [13, 20], "errors": "all"},
    {"errors": "none"},
    {"metrics": ["*"], "contexts": [20]},
    {"metrics": ["participation_ratio"]},
    {"metrics": ["*"], "contexts": [7, 13], "prompts": [7, 20], "skip_first": [0, 3]},
    {"metrics": ["anisotropy", "robust_*"], "prompts": [7], "errors": "all"},
    {"metrics": ["curvature", "block_influence"], "contexts": [13, 20], "errors": "all"},
]
"""Options of `Selection` and of `analyze`."""


@pytest.fixture(params=[6, 40], ids=["scatter", "Gram matrix"])
def root(
    request: pytest.FixtureRequest, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A store of one run, whose rows are read in several spans, blocks and tiles."""
    dim: int = request.param
    monkeypatch.setattr(moments, "MIN_CHUNK_ROWS", 16)
    monkeypatch.setattr(accumulate, "SPAN_CHUNKS", 9)
    monkeypatch.setattr(site_reader, "READ_BYTES", 50 * 4 * dim)
    monkeypatch.setattr(wide_block, "TILE_BYTES", 21 * 4 * dim)
    sites = ("embed", "block.1")
    return make_run(LENGTHS, dim=dim, per_shard=2, sites=sites, vary_tokens=True).root


def numbers(root: Path, options: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """Each number of sites: what it is, and its bits."""
    selection = {n: options[n] for n in ("contexts", "prompts", "skip_first") if n in options}
    others = {n: options[n] for n in ("metrics", "errors") if n in options}
    found = analyze(root, ProfileSettings(**selection, **others))
    for frame in (found.spectra, found.metrics):
        named = "metric" in frame.columns
        for row in frame.iter_rows(named=True):
            key = (row["n_prompts"], row["first_position"], row["prefix"], row["site"])
            if named:
                yield (*key, row["metric"], "value"), np.float64(row["value"]).tobytes()
                if row["stderr"] is not None:
                    yield (*key, row["metric"], "stderr"), np.float64(row["stderr"]).tobytes()
                continue
            for name, value in row.items():
                if isinstance(value, float):
                    yield (*key, name), np.float64(value).tobytes()


def fresh(root: Path, options: dict[str, Any]) -> dict[tuple[Any, ...], bytes]:
    shutil.rmtree(root / "analysis", ignore_errors=True)
    return dict(numbers(root, options))


@pytest.mark.parametrize("bound", [0, 8])
def test_sums_of_split_values_are_exact_in_any_order(bound: int) -> None:
    rng = np.random.default_rng(bound)
    values = rng.uniform(-(2.0**bound), 2.0**bound, 10_000)
    parts = split(values, bound)
    assert np.abs(parts.sum(axis=0) - values).max() <= 2.0 ** (bound - 46)
    for part in parts:
        sums = {float(rng.permutation(part).sum()) for _ in range(20)}
        assert sums == {math.fsum(part)}
    with np.errstate(invalid="ignore"):
        assert np.isnan(split(np.array([np.inf, 1.0]), bound).sum())


@pytest.mark.slow
def test_errors_of_several_first_positions_are_those_of_each(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With groups of more rows than one product takes: each was added once for each position."""
    monkeypatch.setattr(moments, "MIN_CHUNK_ROWS", 8)
    root = make_run(LENGTHS, sites=("final",)).root
    alone = fresh(root, {"skip_first": [0]}) | fresh(root, {"skip_first": [1]})
    assert fresh(root, {"skip_first": [0, 1]}) == alone
    assert len(alone) > 100


@pytest.mark.slow
def test_what_else_is_asked_for_moves_no_bit(root: Path) -> None:
    known: dict[tuple[Any, ...], bytes] = {}
    other: set[tuple[Any, ...]] = set()
    for options in REQUESTS:
        for key, bits in fresh(root, options).items():
            if "logits" not in key and known.setdefault(key, bits) != bits:
                other.add(key)
    assert len(known) > 2000
    assert not other


@pytest.mark.slow
def test_what_was_kept_before_moves_no_bit(root: Path) -> None:
    alone = [fresh(root, options) for options in REQUESTS]
    rng = np.random.default_rng(5)
    for _ in range(2):
        shutil.rmtree(root / "analysis")
        for place in rng.permutation(len(REQUESTS)).tolist():
            assert dict(numbers(root, REQUESTS[place])) == alone[place], REQUESTS[place]
