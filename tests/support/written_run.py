"""A small run whose activations do not matter, and its rows of `token_stats`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from on_disk import on_disk
from small_capture import make_capture, make_plan
from stored import object_path

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.format.plan import (
    ContinuationInfo,
    SiteSpec,
)
from lpp.store.format.quarantine import SetAside, quarantine_table
from lpp.store.format.tables import TOKENS_SCHEMA


@dataclass(frozen=True)
class WrittenRun:
    """A run of a store, and the rows of `token_stats` that it should give."""

    run: Run
    rows: list[dict[str, Any]]

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def path(self) -> Path:
        return on_disk(self.run.path)

    def shard(self, index: int) -> Path:
        """Directory of one shard."""
        return self.path / "shards" / f"{index:05d}"

    def file(self, index: int, name: str) -> Path:
        """An object of one shard, or its record."""
        shard = self.shard(index)
        return shard / name if name == "COMMIT.json" else object_path(shard, name)


def write_run(
    root: Path,
    model: str = "Lab/a",
    shards: Sequence[Sequence[int]] = ((3, 2), (4,)),
    *,
    quarantined: Sequence[int] = (),
    missing: Sequence[int] = (),
    given: Sequence[int] = (),
) -> WrittenRun:
    """Write a run of distinct values into the store `root`.

    shards: lengths of the prompts of each shard. quarantined: prompts. missing: shards. given:
    tokens of each prompt that its model did not write; empty if the model wrote nothing.
    """
    lengths = tuple(length for shard in shards for length in shard)
    ids = [np.arange(10 * k, 10 * k + n) for k, n in enumerate(lengths)]
    plan = make_plan()
    capture = make_capture(
        lengths,
        (0, *np.cumsum([len(shard) for shard in shards]).tolist()),
        {"final": np.arange(2 * sum(lengths), dtype="<f4").reshape(-1, 2)},
        ids=ids,
        model=replace(plan.model, id=model, hidden_size=2, logits_width=99),
        tokenizer=replace(plan.tokenizer, size=99),
        stored_dtype="float32",
        continuation=ContinuationInfo(
            given_context=min(given),
            tokens=max(lengths) - min(given),
            temperature=None,
            seed=None,
            end_ids=(),
        )
        if given
        else None,
    )
    final = SiteSpec(name="final", convention="post_norm", width=2)
    plan, prompts = replace(capture.plan, sites=(final,)), capture.prompts
    if given:
        logprobs = [[-1.0] * (n - g) for n, g in zip(lengths, given, strict=True)]
        columns = {"n_given": pa.array(given, pa.int32())}
        columns["written_logprob"] = pa.array(logprobs, pa.list_(pa.float32()))
        for name, column in columns.items():
            prompts = prompts.append_column(name, column)
    rows: list[dict[str, Any]] = [
        {"run": plan.run_id, "prompt_id": prompt, "position": place, "token_id": token}
        for prompt, part in enumerate(ids)
        for place, token in enumerate(part.tolist())
    ]
    for number, row in enumerate(rows):
        last = row["position"] == lengths[row["prompt_id"]] - 1
        for place, field in enumerate(TOKENS_SCHEMA):
            if field.name not in row:
                value = 16 * number + place
                none = row["prompt_id"] in quarantined or (last and field.name[:4] == "next")
                row[field.name] = None if none else value
    tokens = pa.Table.from_pylist(rows, schema=TOKENS_SCHEMA)
    for row in rows:
        row["written"] = bool(given) and row["position"] >= given[row["prompt_id"]]
        row["loss_mask"] = None
    writer = RunWriter(create_store(root).path, plan, prompts)
    for index, (first, end) in enumerate(itertools.pairwise(plan.shards)):
        if index not in missing:
            bad = [
                SetAside(prompt_id=k, reason="out_of_memory", site=None, position=None, detail="")
                for k in quarantined
                if first <= k < end
            ]
            hidden, _ = capture.shard(index)
            here = capture.rows(index)
            table = quarantine_table(bad) if bad else None
            of_shard = tokens.slice(here.start, here.stop - here.start)
            writer.write_shard(index, hidden, of_shard, table)
    gone = {k for shard in missing for k in range(*plan.shards[shard : shard + 2])}
    kept = [row for row in rows if row["prompt_id"] not in gone.union(quarantined)]
    return WrittenRun(open_store(root).runs[plan.run_id], kept)
