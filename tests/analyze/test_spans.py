"""Long runs in spans: the numbers of a plain reference, and of any number of workers."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import MakeRun

from lpp.analyze import scan_spectra
from lpp.analyze.engine import accumulate
from lpp.analyze.engine.accumulate import divided, span_ends
from lpp.analyze.numerics import moments

LENGTHS = [20, 3, 20, 11, 20, 20, 1, 20, 7, 20, 20, 20, 2, 20, 20, 5, 20, 20, 20, 20]


@given(lengths=st.lists(st.integers(0, 9), max_size=30), rows=st.integers(1, 25), data=st.data())
def test_spans_hold_rows_enough_and_more_prompts_move_no_end(
    lengths: list[int], rows: int, data: st.DataObject
) -> None:
    ends = span_ends(np.array(lengths, np.int32), rows)
    bounds = [0, *ends]
    for a, b in itertools.pairwise(bounds):
        assert sum(lengths[a:b]) >= rows > sum(lengths[a : b - 1])  # no prompt more than needed
    assert sum(lengths[bounds[-1] :]) < rows
    some = data.draw(st.integers(0, len(lengths)))
    assert span_ends(np.array(lengths[:some], np.int32), rows) == [e for e in ends if e <= some]


@given(
    bounds=st.lists(st.integers(0, 30), unique=True, min_size=2).map(sorted),
    cuts=st.lists(st.integers(1, 29), unique=True).map(sorted),
)
def test_prompts_are_divided_at_the_ends_of_spans_inside_their_runs(
    bounds: list[int], cuts: list[int]
) -> None:
    prompts = tuple(zip(bounds[::2], bounds[1::2], strict=False))
    found = divided(prompts, cuts)
    runs = [run for part in found for run in part]
    assert [p for a, b in runs for p in range(a, b)] == [p for a, b in prompts for p in range(a, b)]
    inside = {cut for cut in cuts for a, b in prompts if a < cut < b}
    assert [part[-1][1] for part in found] == [*sorted(inside), prompts[-1][1]]


@pytest.mark.parametrize("dim", [4, 40], ids=["moments", "rows of short prefixes"])
def test_a_run_of_many_spans_agrees_with_an_svd_with_errors_and_sizes(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, dim: int
) -> None:
    monkeypatch.setattr(moments, "MIN_CHUNK_ROWS", 1)
    monkeypatch.setattr(accumulate, "SPAN_CHUNKS", 40 / dim / 2)
    made = make_run(lengths=LENGTHS, dim=dim, per_shard=3, sites=("final",))
    ends = span_ends(np.array(LENGTHS), int(accumulate.span_rows(dim)))
    assert len(ends) > 8
    table = scan_spectra(made.root, prompts=[3, ends[2], 13, 20], groups=5).collect()
    assert table["participation_ratio_stderr"].null_count() == 0
    for row in table.iter_rows(named=True):
        size, prefix = row["n_prompts"], row["prefix"]
        rows = made.rows("final", prefix, size)
        assert row["participation_ratio"] == pytest.approx(ratio(rows), rel=1e-9)
        count = min(5, size)
        cuts = [size * g // count for g in range(count + 1)]
        rest = []
        for a, b in itertools.pairwise(cuts):
            kept = [r[:prefix] for i, r in enumerate(made.hidden["final"][:size]) if not a <= i < b]
            rest.append(ratio(np.concatenate(kept)))
        error = np.sqrt((count - 1) / count * np.sum((np.array(rest) - np.mean(rest)) ** 2))
        assert row["participation_ratio_stderr"] == pytest.approx(error, rel=1e-6, abs=1e-9)


def ratio(rows: Any) -> float:
    """PR from singular values in float64."""
    wide = rows.astype(np.float64)
    values = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False) ** 2
    return float(values.sum() ** 2 / (values**2).sum()) if values.sum() > 1e-20 else 0.0
