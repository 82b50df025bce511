"""A small run whose activations do not matter, and its rows of `token_stats`."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from on_disk import on_disk
from stored import object_path

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.format.plan import (
    ComputeInfo,
    ContinuationInfo,
    CorpusInfo,
    ModelInfo,
    Plan,
    PromptsInfo,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.format.quarantine import SetAside, quarantine_table
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA


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
    lengths = [length for shard in shards for length in shard]
    ids = [np.arange(10 * k, 10 * k + n, dtype="<i4") for k, n in enumerate(lengths)]
    digests = [hashlib.sha256(part.tobytes()) for part in ids]
    plan = Plan(
        model=ModelInfo(
            id=model, source="hub", revision="r", weights="w", architecture="A", n_parameters=9,
            n_blocks=1, hidden_size=2, logits_width=99, untrained_seed=None,
        ),
        tokenizer=TokenizerInfo(id="t", fingerprint="f", size=99),
        corpus=CorpusInfo(name="c", revision="r", fingerprint="f", prompt_set="s", selection={}),
        prompts=PromptsInfo(
            count=len(ids), tokens=sum(lengths),
            sha256=hashlib.sha256(b"".join(d.digest() for d in digests)).hexdigest(),
        ),
        context=max(lengths), prefixes=(max(lengths),), logit_positions="all",
        sites=(SiteSpec(name="final", convention="post_norm", width=2),),
        compute=ComputeInfo(
            backend="torch", device="cpu", dtype="float32", attention="sdpa", batch_tokens=9,
            device_map=None, quantization=None, trust_remote_code=False, versions={},
        ),
        stored_dtype="float32",
        shards=(0, *np.cumsum([len(shard) for shard in shards]).tolist()),
        continuation=ContinuationInfo(
            given_context=min(given), tokens=max(lengths) - min(given), temperature=None,
            seed=None, end_ids=(),
        ) if given else None,
    )  # fmt: skip
    prompts = pa.table(
        {
            "prompt_id": range(len(ids)),
            "source_row": range(len(ids)),
            "token_ids": [part.tolist() for part in ids],
            "n_tokens": lengths,
            "truncated": [False] * len(ids),
            "sha256": [d.hexdigest() for d in digests],
        }
    ).cast(PROMPTS_SCHEMA)
    if given:
        logprobs = [[-1.0] * (n - g) for n, g in zip(lengths, given, strict=True)]
        columns = {"n_given": pa.array(given, pa.int32())}
        columns["written_logprob"] = pa.array(logprobs, pa.list_(pa.float32()))
        for name, column in columns.items():
            prompts = prompts.append_column(name, column)
    rows = [
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
            start, length = sum(lengths[:first]), sum(lengths[first:end])
            bad = [
                SetAside(prompt_id=k, reason="out_of_memory", site=None, position=None, detail="")
                for k in quarantined
                if first <= k < end
            ]
            hidden = {"final": np.arange(2 * length, dtype="<f4").reshape(length, 2)}
            table = quarantine_table(bad) if bad else None
            writer.write_shard(index, hidden, tokens.slice(start, length), table)
    gone = {k for shard in missing for k in range(*plan.shards[shard : shard + 2])}
    kept = [row for row in rows if row["prompt_id"] not in gone.union(quarantined)]
    return WrittenRun(open_store(root).runs[plan.run_id], kept)
