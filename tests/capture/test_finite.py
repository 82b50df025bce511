"""The check that every batch passes, and what becomes of prompts that a backend could not run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from backend_contract import captured, make_batch, torch_backend
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpp.capture.backends.finite import (
    set_aside,
    statistics_not_finite,
)
from lpp.capture.backends.torch_backend import halves, joined
from lpp.capture.plan.backend import Captured
from lpp.store.arrays.finite import all_finite, rows_not_finite
from lpp.store.arrays.reader import to_float32
from lpp.store.format.quarantine import IN_LOGITS
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


def found(**changes: list[int]) -> list[tuple[int, str | None, int | None]]:
    """Who is set aside of prompts 10, 11 and 12 of 2, 3 and 1 tokens, where the named sites and
    statistics are not finite at these rows.
    """
    batch = make_batch([[5, 6], [7, 8, 9], [4]], first=10)
    statistics = {name: np.ones(6, np.float32) for name in STATISTICS}
    statistics["next_logprob"][[1, 4, 5]] = np.nan  # nothing follows a last token
    sites = []
    for site in ("block.1", "final"):
        rows = np.ones((6, 4), np.float32)
        rows[changes.pop(site.replace(".", "_"), [])] = np.nan
        sites.append((site, rows_not_finite(rows)))
    for name, rows_of_statistic in changes.items():
        statistics[name][rows_of_statistic] = np.nan
    sites.append((IN_LOGITS, statistics_not_finite(batch, statistics)))
    aside = set_aside(batch.prompt_ids, batch.lengths, {}, sites)
    return sorted((entry.prompt_id, entry.site, entry.position) for entry in aside)


def test_the_first_site_in_depth_and_the_first_token_there() -> None:
    assert found() == []
    assert found(final=[3]) == [(11, "final", 1)]
    assert found(final=[2], block_1=[4, 0]) == [(10, "block.1", 0), (11, "block.1", 2)]
    assert found(entropy=[5]) == [(12, "logits", 0)]
    assert found(next_logprob=[0]) == [(10, "logits", 0)]
    assert [site for _, site, _ in found(final=[0, 1, 2, 3, 4, 5])] == ["final"] * 3


def test_a_prompt_that_failed_is_set_aside_for_that() -> None:
    rows = [("final", np.array([0, 2]))]
    ten, eleven = sorted(
        set_aside([10, 11], [2, 3], {11: "no room"}, rows), key=lambda one: one.prompt_id
    )
    assert (ten.reason, ten.detail) == ("not_finite", "1 of 2 tokens")
    assert (eleven.reason, eleven.site, eleven.position) == ("out_of_memory", None, None)
    assert eleven.detail == "no room"


def test_halves_are_the_batch() -> None:
    memory = {"final": np.zeros((8, 4), np.uint16)}
    whole = make_batch([[5, 6], [7, 8, 9], [4], [3, 3]], logit_rows=[0, 3, 4, 7], first=20)
    batch = replace(whole, hidden=memory)
    first, rest = halves(batch)
    assert (first.prompt_ids, rest.prompt_ids) == ((20, 21), (22, 23))
    assert (first.token_ids.tolist(), rest.token_ids.tolist()) == ([5, 6, 7, 8, 9], [4, 3, 3])
    assert (first.logit_rows.tolist(), rest.logit_rows.tolist()) == ([0, 3, 4], [2])
    assert (first.ends_shard, rest.ends_shard) == (False, True)
    both = np.concatenate([first.next_ids, rest.next_ids])
    assert both.tolist() == batch.next_ids.tolist()
    first.hidden["final"][...] = 1
    rest.hidden["final"][...] = 2
    assert memory["final"][:, 0].tolist() == [1] * 5 + [2] * 3
    parts = [
        Captured(
            batch=half,
            statistics=dict.fromkeys(STATISTICS, np.zeros(len(half.logit_rows), np.float32)),
            failed=dict.fromkeys(half.prompt_ids, "no room") if half is first else {},
            not_finite={"final": np.array([1])},
        )
        for half in (first, rest)
    ]
    together = joined(batch, parts)
    assert together.batch is batch
    assert {len(values) for values in together.statistics.values()} == {4}
    assert sorted(together.failed) == [20, 21]
    assert together.not_finite is not None
    assert together.not_finite["final"].tolist() == [1, 6]


@pytest.mark.slow
def test_rows_beside_prompts_that_failed_are_still_to_be_checked(
    tiny_model: Callable[[str], Any],
) -> None:
    """Both halves of a batch run one prompt and fail at another, on the CPU, which checks later."""
    model = tiny_model("llama")
    prompts = [[5, 6, 7], [9, 9, 9], [5, 6, 8], [9, 9, 9]]

    def full(module: object, args: object, named: dict[str, Any]) -> None:
        ids = named["input_ids"]
        if len(ids) > 1 or 9 in ids:
            raise MemoryError("no room")

    backend = torch_backend(model)
    hook = model.model.register_forward_pre_hook(full, with_kwargs=True)
    try:
        (together,) = captured(backend, [make_batch(prompts)], ["final"])
    finally:
        hook.remove()
    assert sorted(together.failed) == [1, 3]
    assert together.not_finite is None  # of the prompts that ran, no row was looked at
