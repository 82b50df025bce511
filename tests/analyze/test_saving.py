"""Tokens by the paper's procedure and by one capture."""

import numpy as np
import pytest

from lpp.analyze.studies.saving import Saving, paper_tokens, total
from lpp.store.format.schedule import prefix_schedule


def procedure(lengths: list[int], contexts: list[int], sizes: list[int]) -> int:
    """The published loops, counting instead of running."""
    tokens = 0
    for size in sizes:
        for context in contexts:
            for prefix in prefix_schedule(context):
                for length in lengths[:size]:
                    tokens += len(range(length)[:prefix])
    return tokens


@pytest.mark.parametrize(
    ("lengths", "contexts", "sizes"),
    [([20] * 6, [20], [6]), ([3, 20, 11, 7], [10, 20], [1, 3, 4]), ([1], [50], [1])],
)
def test_counts_what_the_loops_would_run(
    lengths: list[int], contexts: list[int], sizes: list[int]
) -> None:
    schedules = [prefix_schedule(context) for context in contexts]
    found = paper_tokens(np.array(lengths, dtype=np.int32), schedules, sizes)
    assert found == procedure(lengths, contexts, sizes)


def test_the_paper_grid_of_whole_prompts_costs_fifteen_captures() -> None:
    lengths = np.full(1000, 500)
    schedules = [prefix_schedule(c) for c in (50, 100, 200, 500)]
    theirs = paper_tokens(lengths, schedules, [10, 100, 500, 1000])
    # ten prefixes of C are 5.5 C: 5.5 (50 + 100 + 200 + 500) (10 + 100 + 500 + 1000)
    assert theirs == 7_526_750
    assert Saving("run", theirs, int(lengths.sum())).ratio == pytest.approx(15.0535)


def test_counts_beyond_thirty_two_bits() -> None:
    lengths = np.full(10_000, 2**20, dtype=np.int32)
    assert paper_tokens(lengths, [(2**20,)], [10_000]) == 10_000 * 2**20


def test_total_is_the_sum_of_both_sides() -> None:
    found = total([Saving("a", 30, 10), Saving("b", 10, 10)])
    assert (found.paper_tokens, found.our_tokens, found.ratio) == (40, 20, 2.0)
