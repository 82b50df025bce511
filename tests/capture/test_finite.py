"""The check that every batch passes, and what becomes of prompts that a backend could not run."""

from dataclasses import replace

import numpy as np
import pytest
from backend_contract import make_batch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpp.capture.backends.finite import all_finite, set_aside
from lpp.capture.backends.torch.halving import halves, joined, without_rows
from lpp.capture.plan.backend import Captured
from lpp.store.arrays.reader import to_float32
from lpp.store.format.tables import STATISTICS

KINDS = {"uint16": np.uint16, "float16": np.uint16, "float32": np.uint32}


@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_any_bits_are_judged_as_numpy_judges_the_numbers(data: st.DataObject, kind: str) -> None:
    bits = data.draw(hnp.arrays(KINDS[kind], hnp.array_shapes(min_dims=2, max_dims=2)))
    rows = bits.view(kind)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        assert all_finite(rows) == bool(np.isfinite(to_float32(rows)).all())


@pytest.mark.parametrize(
    ("kind", "largest", "least"),
    [("uint16", 0x7F7F, 0x7F80), ("float16", 0x7BFF, 0x7C00), ("float32", 0x7F7FFFFF, 0x7F800000)],
)
def test_one_value_in_any_piece_is_found(kind: str, largest: int, least: int) -> None:
    sign = 1 << (8 * np.dtype(kind).itemsize - 1)
    rows = np.full((700, 300), largest | sign, KINDS[kind])  # several pieces, none full at the end
    assert all_finite(rows.view(kind))
    for place in ((0, 0), (699, 299), (218, 135), (350, 7)):
        for value in (least, least | sign, least + 1):
            broken = rows.copy()
            broken[place] = value
            assert not all_finite(broken.view(kind)), place


def captured(**changes: np.ndarray) -> Captured:
    """Three prompts of 2, 3 and 1 tokens at two sites, everything finite but for `changes`."""
    batch = make_batch([[5, 6], [7, 8, 9], [4]], first=10)
    hidden = {site: np.ones((6, 4), np.float32) for site in ("block.1", "final")}
    statistics = {name: np.ones(6, np.float32) for name in STATISTICS}
    statistics["next_logprob"][[1, 4, 5]] = np.nan  # nothing follows a last token
    for name, rows in changes.items():
        for row in rows:
            into = hidden.get(name.replace("_", "."), statistics.get(name))
            assert into is not None
            into[row] = np.nan
    return Captured(batch=batch, hidden=hidden, statistics=statistics)


def found(one: Captured) -> list[tuple[int, str | None, int | None]]:
    aside = set_aside(one, ["block.1", "final"])
    return sorted((entry.prompt_id, entry.site, entry.position) for entry in aside)


def test_the_first_site_in_depth_and_the_first_token_there() -> None:
    assert found(captured()) == []
    assert found(captured(final=np.array([3]))) == [(11, "final", 1)]
    assert found(captured(final=np.array([2]), block_1=np.array([4, 0]))) == [
        (10, "block.1", 0),
        (11, "block.1", 2),
    ]
    assert found(captured(entropy=np.array([5]))) == [(12, "logits", 0)]
    assert found(captured(next_logprob=np.array([0]))) == [(10, "logits", 0)]
    broken = captured(final=np.arange(6))
    assert [site for _, site, _ in found(broken)] == ["final"] * 3


def test_a_prompt_that_failed_is_set_aside_for_that() -> None:
    failed = replace(captured(final=np.array([0])), failed={11: "no room"})
    (ten, eleven) = sorted(set_aside(failed, ["block.1", "final"]), key=lambda e: e.prompt_id)
    assert (ten.reason, eleven.reason) == ("not_finite", "out_of_memory")
    assert (eleven.site, eleven.position, eleven.detail) == (None, None, "no room")


def test_halves_are_the_batch() -> None:
    batch = make_batch([[5, 6], [7, 8, 9], [4], [3, 3]], asked=[0, 3, 4, 7], first=20)
    first, rest = halves(batch)
    assert (first.prompt_ids, rest.prompt_ids) == ((20, 21), (22, 23))
    assert (first.token_ids.tolist(), rest.token_ids.tolist()) == ([5, 6, 7, 8, 9], [4, 3, 3])
    assert (first.asked.tolist(), rest.asked.tolist()) == ([0, 3, 4], [2])
    both = np.concatenate([first.next_ids, rest.next_ids])
    assert both.tolist() == batch.next_ids.tolist()
    parts = [without_rows(half, {"final": 4}, "uint16", "no room") for half in (first, rest)]
    whole = joined(batch, parts)
    assert whole.batch is batch
    assert whole.hidden["final"].shape == (8, 4)
    assert {len(values) for values in whole.statistics.values()} == {4}
    assert sorted(whole.failed) == [20, 21, 22, 23]
