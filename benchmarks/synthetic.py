"""A run of any size through the real writer, without a model: random rows of a few scales.

Analysis takes as long on them as on a model's, since no step of it looks at what the numbers are;
they compress less, because nothing repeats in their mantissas.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.capture.plan.backend import Batch
from lpp.store import Plan, Run, RunWriter, create_store
from lpp.store.format.commit_record import record_bytes
from lpp.store.format.keys import COMMIT_KEY, shard_key
from lpp.store.format.plan import (
    ComputeInfo,
    CorpusInfo,
    ModelInfo,
    PromptsInfo,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.format.rows import prompts_sha256, token_ids_sha256
from lpp.store.format.schedule import prefix_schedule
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA

LENGTH: Final = 100
"""Tokens of each prompt."""
WIDTH: Final = 1000
"""Of the logits."""


def synthetic_run(
    root: Path,
    rows: int,
    dim: int,
    *,
    sites: Sequence[str] = ("final",),
    per_shard: int = 500,
    length: int = LENGTH,
    model: int = 0,
    vocabulary: int = WIDTH,
    written: int | None = None,
) -> Run:
    """`rows` tokens in prompts of `length`, each site `dim` wide, in bfloat16.

    per_shard: prompts of a shard. model: another number is another model, with other rows of the
    same tokens. vocabulary: columns of its
    logits. written: shards that are written; the others are links to these, with their own records,
    and `verify` finds wrong prompts in them. The same arguments give the same bytes.
    """
    count = rows // length
    rng = np.random.default_rng([rows, dim])
    ids = rng.integers(0, WIDTH, size=(count, length), dtype=np.int32)
    prompts = prompts_table([*ids])
    shards = (*range(0, count, per_shard), count)
    plan = synthetic_plan(prompts, length, dim=dim, sites=sites, shards=shards)
    weights = str(model) if model else plan.model.weights
    named = replace(plan.model, weights=weights, logits_width=vocabulary)
    plan = replace(plan, model=named)
    seed = [rows, dim] if not model else [rows, dim, model]
    writer = RunWriter(create_store(root).path, plan, prompts)
    for shard in writer.uncommitted(range(plan.n_shards)[:written]):
        part = slice(plan.shards[shard], plan.shards[shard + 1])
        hidden = dict(zip(sites, _hidden([*seed, shard], ids[part].size, dim), strict=False))
        writer.write_shard(shard, hidden, _tokens(ids, part))
    if written is not None:
        for shard in range(written, plan.n_shards):
            _link(writer.run, shard % written, shard)
    return writer.run


def _link(run: Run, written: int, number: int) -> None:
    """Make shard `number` of the files of another."""
    shard = run.shard(written)
    assert shard is not None
    source = Path(str(shard.path))
    target = source.with_name(shard_key(number))
    for key in shard.record.objects:
        file = target / shard.record.base / key
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(source / shard.record.base / key, file)
    (target / COMMIT_KEY).write_bytes(record_bytes(replace(shard.record, shard=number)))


def one_batch(plan: Plan, shard: int, token_ids: npt.NDArray[np.int32]) -> Batch:
    """All prompts of a shard, each as long as the context."""
    prompts = range(plan.shards[shard], plan.shards[shard + 1])
    return Batch(
        shard=shard,
        prompt_ids=tuple(prompts),
        lengths=(plan.context,) * len(prompts),
        token_ids=token_ids,
        logit_rows=np.zeros(0, np.int64),
    )


def _hidden(seed: list[int], rows: int, dim: int) -> Iterator[npt.NDArray[np.uint16]]:
    """Rows of one site after the other, the upper halves of float32."""
    rng = np.random.default_rng(seed)
    scale = (1 + np.arange(dim) % 7).astype(np.float32)
    while True:
        values = rng.standard_normal((rows, dim), dtype=np.float32) * scale
        yield (values.view(np.uint32) >> 16).astype(np.uint16)


def prompts_table(ids: Sequence[npt.NDArray[np.int32]]) -> pa.Table:
    """`PROMPTS_SCHEMA` of prompts with these token ids."""
    lengths = np.array([len(one) for one in ids], np.int32)
    offsets = pa.array(np.cumsum([0, *lengths], dtype=np.int32))
    columns = {
        "prompt_id": np.arange(len(ids), dtype=np.int32),
        "source_row": np.arange(len(ids), dtype=np.int64),
        "token_ids": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(ids))),
        "n_tokens": lengths,
        "truncated": np.zeros(len(ids), bool),
        "sha256": [token_ids_sha256(one) for one in ids],
    }
    return pa.table(columns, schema=PROMPTS_SCHEMA)


def _tokens(ids: npt.NDArray[np.int32], part: slice) -> pa.Table:
    count, length = ids[part].shape
    position = np.tile(np.arange(length, dtype=np.int32), count)
    last = position == length - 1
    number = np.arange(count * length)
    entropy = (0.5 + number % 13 / 4).astype(np.float32)
    columns = {
        "prompt_id": np.repeat(np.arange(part.start, part.stop, dtype=np.int32), length),
        "position": position,
        "token_id": ids[part].ravel(),
        "entropy": entropy,
        "log_z": np.full(count * length, 9, np.float32),
        "max_logprob": np.full(count * length, -0.5, np.float32),
        "margin": np.full(count * length, 0.5, np.float32),
        "next_logprob": pa.array(np.full(count * length, -2, np.float32), mask=last),
        "next_rank": pa.array(np.full(count * length, 3, np.int32), mask=last),
        "top1_id": np.full(count * length, 7, np.int32),
        "varentropy": np.full(count * length, 1, np.float32),
    }
    return pa.table(columns, schema=TOKENS_SCHEMA)


def synthetic_plan(
    prompts: pa.Table, context: int, *, dim: int, sites: Sequence[str], shards: tuple[int, ...]
) -> Plan:
    """A plan that keeps rows in bfloat16. context: the longest prompt. shards: their boundaries."""
    count, tokens = prompts.num_rows, sum(prompts["n_tokens"].to_pylist())
    blocks = max((int(s.partition(".")[2]) for s in sites if s.startswith("block.")), default=1)
    return Plan(
        model=ModelInfo(
            id=f"synthetic-{dim}",
            source="folder",
            revision=None,
            weights="none",
            architecture="none",
            n_parameters=12 * blocks * dim * dim,
            n_blocks=blocks,
            hidden_size=dim,
            logits_width=WIDTH,
        ),
        tokenizer=TokenizerInfo(id="synthetic", fingerprint="none", size=WIDTH),
        corpus=CorpusInfo(
            name="synthetic", revision=None, fingerprint="none", prompt_set="none", selection={}
        ),
        prompts=PromptsInfo(count=count, tokens=tokens, sha256=prompts_sha256(prompts)),
        context=context,
        prefixes=prefix_schedule(context),
        logit_positions="all",
        sites=tuple(
            SiteSpec(name=s, convention="post_norm" if s == "final" else "residual", width=dim)
            for s in sites
        ),
        compute=ComputeInfo(
            backend="torch",
            device="cpu",
            dtype="bfloat16",
            attention="sdpa",
            batch_tokens=2048,
            device_map=None,
            quantization=None,
            trust_remote_code=False,
            versions={},
        ),
        stored_dtype="bfloat16",
        shards=shards,
    )
