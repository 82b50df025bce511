"""Diff-eRank: a run against its untrained twin over the same prompts."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import MakeRun

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Request, SiteRequest
from lpp.analyze.engine.executor import LOCAL
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.row_measures.prompt_ranks import prompt_entropy
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import views
from lpp.analyze.runs.twins import untrained_twin
from lpp.analyze.tables.metrics import scan_metrics
from lpp.store import Run, open_store


def narrow(rows: Any) -> Any:
    """Rows near one line, as training leaves them."""
    rows[:, 1:] *= np.float32(0.05)
    return rows


def ranks(root: Any, name: str, groups: int | None = None) -> Any:
    return scan_metrics(root, metrics=[name], groups=groups).sort("run", "site", "prefix").collect()


def test_the_twins_rank_less_ones_own(make_run: MakeRun) -> None:
    trained = make_run(scale=narrow)
    before = ranks(trained.root, "diff_erank")
    assert before["value"].null_count() == len(before)
    twin = make_run(untrained_seed=7, seed=0)  # what was not there before is found now
    found_twin = untrained_twin(open_store(trained.root).runs[trained.run_id])
    assert found_twin is not None
    assert found_twin.id == twin.run_id
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


def test_what_is_kept_of_the_twin_is_not_read_again(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_run(scale=narrow)
    twin = make_run(untrained_seed=7)
    reads: list[str] = []
    blocks = Run.blocks

    def counted(run: Run, site: str, **options: Any) -> Any:
        reads.append(run.id)
        return blocks(run, site, **options)

    monkeypatch.setattr(Run, "blocks", counted)
    of_site = scan_metrics(trained.root, metrics=["prompt_erank", "diff_erank"]).filter(
        site="final"
    )
    own = of_site.filter(run=twin.run_id, metric="prompt_erank").collect()
    assert reads == [twin.run_id]
    found = of_site.filter(run=trained.run_id, metric="diff_erank").collect()
    assert reads == [twin.run_id, trained.run_id]
    again = of_site.filter(run=trained.run_id).collect()
    assert reads == [twin.run_id, trained.run_id]
    assert again.filter(metric="diff_erank").equals(found)
    sums = again.group_by("prefix", maintain_order=True).agg(pl.col("value").sum())
    np.testing.assert_allclose(sums["value"], own["value"], rtol=1e-12)


def test_the_error_leaves_the_same_prompts_out_of_both(make_run: MakeRun) -> None:
    trained, twin = make_run(scale=narrow), make_run(untrained_seed=7, seed=0)
    cell = Cell(6, 20)
    work = [
        SiteRequest(view, Cache(trained.root, view.run), "final", [cell], request)
        for view in views(trained.root)
        for metric in (METRICS["diff_erank"],)
        for request in (Request(metrics=[metric], errors=[metric.name], groups=3),)
    ]
    found = dict(zip((w.view.run.id for w in work), LOCAL.estimates(work), strict=True))
    one, parts = found[trained.run_id][cell, "diff_erank"], []
    for part in cell.parts(3):
        ((first, end),) = part.excluded
        ranks_of = [
            np.exp(np.mean([prompt_entropy(r) for r in (*rows[:first], *rows[end:])]))
            for rows in (made.hidden["final"] for made in (twin, trained))
        ]
        parts.append(ranks_of[0] - ranks_of[1])
    assert one.groups == pytest.approx(parts, rel=1e-9)
    assert one.stderr == pytest.approx(np.sqrt(2 / 3 * np.square(parts - np.mean(parts)).sum()))
    assert found[twin.run_id][cell, "diff_erank"].value is None


def test_the_smallest_seed_among_those_that_read_the_same(make_run: MakeRun) -> None:
    trained = make_run()
    make_run(untrained_seed=9)
    wanted = make_run(untrained_seed=3)
    make_run(untrained_seed=1, seed=4, texts="other")  # other tokens
    make_run(untrained_seed=2, model="tiny/other")
    twin = untrained_twin(open_store(trained.root).runs[trained.run_id])
    assert twin is not None
    assert twin.id == wanted.run_id


def test_a_twin_with_fewer_prompts_or_sites_answers_for_those(make_run: MakeRun) -> None:
    trained = make_run()
    make_run(untrained_seed=1, shards=[0], sites=("block.1", "block.2", "final"))
    with pytest.warns(UserWarning, match="2 of 3 shards are missing"):  # of the twin
        table = scan_metrics(trained.root, metrics=["diff_erank"], prompts=[2, 6])
    found = table.filter(run=trained.run_id, prefix=20).collect()
    there = {(r["site"], r["n_prompts"]) for r in found.iter_rows(named=True) if r["value"]}
    assert there == {("block.1", 2), ("block.2", 2), ("final", 2)}
