"""Long runs in spans: the numbers of a plain reference, and of any number of workers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.analyze import scan_spectra
from lpp.analyze.engine import spans
from lpp.analyze.engine.held import Held, merged
from lpp.analyze.engine.spans import FAN_IN, Tree, pieces, span_ends
from lpp.analyze.numerics import moments
from lpp.analyze.numerics.moments import Moments, Workspace

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


@given(lengths=st.lists(st.integers(0, 3), min_size=1, max_size=30), data=st.data())
def test_pieces_of_a_range_are_its_prompts_with_rows_each_once(
    lengths: list[int], data: st.DataObject
) -> None:
    end = data.draw(st.integers(1, len(lengths)))
    first = data.draw(st.integers(0, end - 1))
    ends = span_ends(np.array(lengths), 4)
    closed, open_one = pieces(ends, np.array(lengths), first, end)
    covered = [prompt for a, b in (*closed, *open_one) for prompt in range(a, b)]
    assert covered == sorted(set(covered))
    assert sum(lengths[prompt] for prompt in covered) == sum(lengths[first:end])
    assert {b for _, b in closed} <= set(ends)
    assert len(open_one) <= 1


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 200])
def test_at_once_or_one_by_one_a_tree_merges_in_the_same_order(count: int) -> None:
    def write(nodes: Sequence[str]) -> str:
        total = nodes[0]
        for node in nodes[1:]:
            total = f"({total}+{node})"
        return total

    trees = [Tree[str](write, eager=eager) for eager in (False, True)]
    for tree in trees:
        for leaf in range(count):
            tree.add(str(leaf))
    late, eager = (tree.roots for tree in trees)
    assert late == eager
    assert len(late) <= len(np.base_repr(count, FAN_IN))
    leaves = [int(n) for root in late for n in root.replace("(", "").replace(")", "").split("+")]
    assert leaves == list(range(count))


def test_merging_bands_is_merging_their_rows() -> None:
    rng = np.random.default_rng(3)
    rows = (rng.normal(size=(5000, 3)) * [1, 50, 1000] + 7).astype(np.float32)
    few, many = Held(rows[:40]), Held(rows[2000:2100], Moments.from_rows(rows[40:2000]))
    late = Held(rows[2100:])
    found = merged([few, many, late], Workspace(3)).settle(Workspace(3))
    plain = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    assert found.n == 5000
    np.testing.assert_allclose(found.scatter, plain.T @ plain, rtol=1e-12, atol=1e-6)
    assert (len(few.waiting), few.moments) == (40, None)  # operands stay as they are
    assert (len(many.waiting), many.n) == (100, 2060)


def test_few_rows_stay_rows_through_a_merge() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    total = merged([Held(rows[:1]), Held(rows[1:1]), Held(rows[1:])], Workspace(3))
    assert total.moments is None
    np.testing.assert_array_equal(total.waiting, rows)


@pytest.mark.parametrize("dim", [4, 40], ids=["moments", "rows of short prefixes"])
def test_a_run_of_many_spans_agrees_with_an_svd_with_errors_and_sizes(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, dim: int
) -> None:
    monkeypatch.setattr(moments, "MIN_CHUNK_ROWS", 1)
    monkeypatch.setattr(spans, "SPAN_CHUNKS", 40 / dim / 2)
    made = make_run(lengths=LENGTHS, dim=dim, per_shard=3, sites=("final",))
    ends = span_ends(np.array(LENGTHS), int(spans.span_rows(dim)))
    assert len(ends) > FAN_IN  # two levels of the tree
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
