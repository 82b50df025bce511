"""Pairs of runs over the prompts of one: other rows, prompts set aside."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from made_runs import Made

from lpp.analyze.drift.pair import Pair
from lpp.analyze.runs.keys import RunView
from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.format.plan import SiteSpec
from lpp.store.format.quarantine import SetAside, quarantine_table
from lpp.store.format.tables import STATISTICS

Array = npt.NDArray[np.float32]
Hidden = Mapping[str, Sequence[Array]]


def write_over(
    made: Made,
    hidden: Hidden,
    *,
    root: Path | None = None,
    model: str = "model/b",
    ends: Sequence[int] = (),
    aside: Sequence[int] = (),
) -> Run:
    """A run of other rows, (T, d) for each prompt, over the prompts of `made`."""
    source = open_store(made.root).runs[made.run_id]
    prompts, tokens = source.prompts(), source.tokens().to_table()
    count = prompts.num_rows
    plan = replace(
        made.plan,
        model=replace(made.plan.model, id=model),
        sites=tuple(
            SiteSpec(name=name, convention="residual", width=rows[0].shape[1])
            for name, rows in hidden.items()
        ),
        shards=(0, *ends, count),
    )
    for name in STATISTICS:
        place = tokens.schema.get_field_index(name)
        bad = pc.is_in(tokens["prompt_id"], pa.array(aside, pa.int32()))
        column = pc.if_else(bad, pa.scalar(None, tokens[name].type), tokens[name])
        tokens = tokens.set_column(place, tokens.schema.field(name), column)
    root = root or made.root
    create_store(root)
    writer = RunWriter(root, plan, prompts)
    for index, (first, end) in enumerate(itertools.pairwise(plan.shards)):
        here = [k for k in aside if first <= k < end]
        inside = (tokens["prompt_id"].to_numpy() >= first) & (tokens["prompt_id"].to_numpy() < end)
        held = {name: np.concatenate(rows[first:end]) for name, rows in hidden.items()}
        writer.write_shard(
            index,
            held,
            tokens.filter(pa.array(inside)),
            quarantine_table(
                [
                    SetAside(prompt_id=k, reason="x", site=None, position=None, detail="")
                    for k in here
                ]
            ),
        )
    return open_store(root).runs[plan.run_id]


def paired(a: Run, b: Run, n_prompts: int | None = None) -> Pair:
    """The pair of two runs, over their first `n_prompts`."""
    views = RunView(a), RunView(b)
    n = n_prompts or a.n_prompts
    aside = np.union1d(*(view.set_aside for view in views))
    return Pair(a=views[0], b=views[1], n_prompts=n, excluded=aside[aside < n])
