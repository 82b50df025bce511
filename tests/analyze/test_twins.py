"""Diff-eRank: a run against its untrained twin over the same prompts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lpp.analyze.metrics.twins import untrained_twin
from lpp.analyze.tables.metrics import scan_metrics
from lpp.store import open_store


def narrow(rows: Any) -> Any:
    """Rows near one line, as training leaves them."""
    rows[:, 1:] *= np.float32(0.05)
    return rows


def ranks(root: Any, name: str, groups: int | None = None) -> Any:
    return scan_metrics(root, metrics=[name], groups=groups).sort("run", "site", "prefix").collect()


def test_the_twins_rank_less_ones_own(make_run: Callable[..., Any]) -> None:
    trained = make_run(scale=narrow)
    before = ranks(trained.root, "diff_erank")
    assert before["value"].null_count() == len(before)
    twin = make_run(untrained_seed=7, seed=0)  # what was not there before is found now
    assert untrained_twin(open_store(trained.root).runs[trained.run_id]).id == twin.run_id
    own = ranks(trained.root, "prompt_erank", 3)
    found = ranks(trained.root, "diff_erank", 3)
    of_twin = found.filter(run=twin.run_id)
    assert of_twin["value"].null_count() == len(of_twin)  # an untrained run has no twin
    differences = found.filter(run=trained.run_id)["value"].to_numpy()
    a, b = (own.filter(run=run)["value"].to_numpy() for run in (twin.run_id, trained.run_id))
    np.testing.assert_allclose(differences, a - b, rtol=1e-12)
    longer = found.filter(run=trained.run_id)["prefix"].to_numpy() > 10
    assert (differences[longer] > 0).all()
    assert found.filter(run=trained.run_id, prefix=20)["stderr"].null_count() == 0


def test_the_smallest_seed_among_those_that_read_the_same(make_run: Callable[..., Any]) -> None:
    trained = make_run()
    make_run(untrained_seed=9)
    wanted = make_run(untrained_seed=3)
    make_run(untrained_seed=1, seed=4)  # other tokens
    make_run(untrained_seed=2, model="tiny/other")
    twin = untrained_twin(open_store(trained.root).runs[trained.run_id])
    assert twin is not None
    assert twin.id == wanted.run_id


def test_a_twin_with_fewer_prompts_or_sites_answers_for_those(make_run: Callable[..., Any]) -> None:
    trained = make_run()
    make_run(untrained_seed=1, shards=[0], sites=("block.1", "block.2", "final"))
    with pytest.warns(UserWarning, match="2 of 3 shards are missing"):  # of the twin
        table = scan_metrics(trained.root, metrics=["diff_erank"], prompts=[2, 6])
    found = table.filter(run=trained.run_id, prefix=20).collect()
    there = {(r["site"], r["n_prompts"]) for r in found.iter_rows(named=True) if r["value"]}
    assert there == {("block.1", 2), ("block.2", 2), ("final", 2)}
