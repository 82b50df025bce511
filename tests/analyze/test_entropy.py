"""Entropy by prefix against the values that went into the store."""

import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import MakeRun
from polars.testing import assert_frame_equal

from lpp.analyze import scan_entropy
from lpp.analyze.tables.entropy import ENTROPY_SCHEMA
from lpp.store.errors import InputError


def test_the_mean_at_the_last_token_of_each_prefix(make_run: MakeRun) -> None:
    made = make_run(lengths=[12, 1, 20, 30], logits_width=77)
    table = scan_entropy(made.root, contexts=[5, 20], prompts=[1, 3, 4]).collect()
    assert table.schema == ENTROPY_SCHEMA
    assert len(table) == 3 * (5 + 10)
    for row in table.iter_rows(named=True):
        size, prefix = row["n_prompts"], row["prefix"]
        ends = [h[min(prefix, len(h)) - 1] for h in made.entropy[:size]]
        mean = np.mean(np.array(ends, dtype=np.float64))
        assert row["entropy"] == pytest.approx(mean, rel=1e-12)
        assert row["entropy_norm"] == pytest.approx(mean / math.log(77), rel=1e-12)
        assert row["short_prompts"] == sum(len(h) < prefix for h in made.entropy[:size])


def test_prompts_that_start_alike_are_not_distinct(make_run: MakeRun) -> None:
    made = make_run(lengths=[20, 20, 4, 4], shared_start=4)
    shares = dict(scan_entropy(made.root).select("prefix", "distinct_prefixes").collect().rows())
    assert (shares[2], shares[4]) == (0.25, 0.25)
    assert shares[6] == 0.75  # the two short prompts stay equal
    ones = scan_entropy(made.root, prompts=[1]).select("distinct_prefixes").collect()
    assert ones.to_series().unique().item() == 1.0


def test_a_shorter_context_equals_a_capture_at_it(make_run: MakeRun, tmp_path: Path) -> None:
    whole, short = make_run(), make_run(context=10, root=tmp_path / "short")
    ours = scan_entropy(whole.root, contexts=[10]).drop("run").collect()
    theirs = scan_entropy(short.root).drop("run").collect()
    # Cut at 10, a prompt of 12 tokens is not short at any prefix up to 10 either way.
    assert_frame_equal(ours, theirs, rel_tol=1e-12)


def test_positions_of_the_schedule_serve_its_own_context(make_run: MakeRun) -> None:
    made = make_run(logit_positions="schedule")
    whole = make_run(root=made.root.parent / "whole")
    assert_frame_equal(
        scan_entropy(made.root).drop("run").collect(),
        scan_entropy(whole.root).drop("run").collect(),
    )


def test_a_context_whose_positions_were_not_captured_is_refused(
    make_run: MakeRun,
) -> None:
    made = make_run(logit_positions="schedule")
    with pytest.raises(InputError, match=r"prefixes 1, 3, 5, 7, 9 of context 10.*captured 2, 4"):
        scan_entropy(made.root, contexts=[10])


def test_positions_beyond_every_text_are_no_loss(make_run: MakeRun) -> None:
    made = make_run(lengths=[1, 2], logit_positions="schedule")
    table = scan_entropy(made.root, contexts=[19]).filter(prefix=19).collect()
    ends = [h[-1] for h in made.entropy]
    assert table["entropy"].item() == pytest.approx(np.mean(ends, dtype=np.float64))
