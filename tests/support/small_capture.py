"""A small run of distinct values: a plan, and all that a model would have computed for it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.arrays.layout import NUMPY_DTYPE
from lpp.store.format.plan import (
    ComputeInfo,
    CorpusInfo,
    ModelInfo,
    Plan,
    PromptsInfo,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.format.rows import prompts_sha256, token_ids_sha256
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA
from lpp.store.objects.place import Url


@dataclass(frozen=True)
class Capture:
    """A plan and everything a model would have produced for it."""

    plan: Plan
    prompts: pa.Table
    lengths: tuple[int, ...]
    hidden: Mapping[str, np.ndarray]
    """site -> (all rows, width), as stored"""
    tokens: pa.Table

    def rows(self, shard: int) -> slice:
        """Rows of one shard among all rows."""
        first, end = self.plan.shards[shard : shard + 2]
        return slice(sum(self.lengths[:first]), sum(self.lengths[:end]))

    def shard(self, index: int) -> tuple[dict[str, np.ndarray], pa.Table]:
        """Arguments of `write_shard`."""
        rows = self.rows(index)
        part = self.tokens.slice(rows.start, rows.stop - rows.start)
        return {site: values[rows] for site, values in self.hidden.items()}, part

    def write(self, root: Url, shards: range | tuple[int, ...] | None = None) -> Run:
        """Write some shards, or all, to the store at `root`; returns the run, opened again."""
        writer = RunWriter(create_store(root).path, self.plan, self.prompts)
        for index in range(self.plan.n_shards) if shards is None else shards:
            writer.write_shard(index, *self.shard(index))
        return open_store(root).runs[self.plan.run_id]


def make_plan(**changes: Any) -> Plan:
    """A valid plan in which no two fields are equal."""
    plan = Plan(
        model=ModelInfo(
            id="Lab/Tiny-0.1B",
            source="hub",
            revision="rev-model",
            weights="weights-print",
            architecture="LlamaForCausalLM",
            n_parameters=101,
            n_blocks=1,
            hidden_size=4,
            logits_width=53,
            untrained_seed=None,
        ),
        tokenizer=TokenizerInfo(id="Lab/Tok", fingerprint="tok-print", size=51),
        corpus=CorpusInfo(
            name="corpus",
            revision="rev-corpus",
            fingerprint="corpus-print",
            prompt_set="set-print",
            selection={"prompts": 4, "min_bytes": 12, "select": "first", "min_tokens": None},
        ),
        prompts=PromptsInfo(count=0, tokens=0, sha256=hashlib.sha256(b"").hexdigest()),
        context=7,
        prefixes=(3, 7),
        logit_positions="all",
        sites=(
            SiteSpec(name="embed", convention="residual", width=4),
            SiteSpec(name="block.1", convention="residual", width=4),
            SiteSpec(name="final", convention="post_norm", width=4),
        ),
        compute=ComputeInfo(
            backend="torch",
            device="cpu",
            dtype="float32",
            attention="sdpa",
            batch_tokens=640,
            device_map=None,
            quantization=None,
            trust_remote_code=False,
            versions={"torch": "2.13", "transformers": "5.0"},
        ),
        stored_dtype="bfloat16",
        shards=(0,),
    )
    return replace(plan, **changes)


def make_capture(
    lengths: tuple[int, ...] = (5, 7, 3, 6),
    shards: tuple[int, ...] = (0, 2, 3, 4),
    hidden: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    ids: Sequence[np.ndarray] | None = None,
    **changes: Any,
) -> Capture:
    """A capture of random bits; `hidden` sets the rows, and with them the sites' widths."""
    rng = np.random.default_rng(seed)
    ids = ids or [rng.integers(0, 51, n).astype("<i4") for n in lengths]
    total = sum(lengths)
    prompts = prompts_table(
        ids, [11 * k + 4 for k in range(len(ids))], [k % 2 == 1 for k in range(len(ids))]
    )
    plan = make_plan(
        prompts=prompts_info(prompts),
        shards=shards,
        **{"context": max(lengths, default=7), "prefixes": (max(lengths, default=7),), **changes},
    )
    if hidden is None:
        dtype = np.dtype(NUMPY_DTYPE[plan.stored_dtype])
        sizes = {site.name: total * site.width * dtype.itemsize for site in plan.sites}
        hidden = {
            site.name: np.frombuffer(rng.bytes(sizes[site.name]), dtype).reshape(total, site.width)
            for site in plan.sites
        }
    else:
        sites = [
            SiteSpec(name=name, convention="residual", width=rows.shape[1])
            for name, rows in hidden.items()
        ]
        plan = replace(plan, sites=tuple(sites))
    return Capture(plan, prompts, lengths, hidden, make_tokens(ids))


def prompts_table(
    ids: Sequence[np.ndarray], source_rows: Sequence[int], truncated: Sequence[bool]
) -> pa.Table:
    """Prompts of these token ids."""
    parts = [np.asarray(part, "<i4") for part in ids]
    columns = {
        "prompt_id": range(len(parts)),
        "source_row": source_rows,
        "token_ids": [part.tolist() for part in parts],
        "n_tokens": [len(part) for part in parts],
        "truncated": truncated,
        "sha256": [token_ids_sha256(part) for part in parts],
    }
    return pa.table(columns, schema=PROMPTS_SCHEMA)


def prompts_info(table: pa.Table) -> PromptsInfo:
    """What a plan says of a table of prompts."""
    tokens = sum(table["n_tokens"].to_pylist())
    return PromptsInfo(count=table.num_rows, tokens=tokens, sha256=prompts_sha256(table))


def make_tokens(ids: Sequence[np.ndarray]) -> pa.Table:
    """Token statistics in which every column differs; `next_*` null at a prompt's end."""
    flat = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    n = len(flat)
    ends = set((np.cumsum([len(part) for part in ids]) - 1).tolist())
    row = np.arange(n)
    columns = {
        "prompt_id": np.repeat(np.arange(len(ids)), [len(part) for part in ids]),
        "position": np.concatenate([np.arange(len(part)) for part in ids]) if ids else row,
        "token_id": flat,
        "entropy": row / 16 + 0.25,
        "log_z": row / 8 + 20,
        "max_logprob": -row / 32 - 0.5,
        "margin": row / 64 + 0.125,
        "next_logprob": [None if k in ends else -k / 4 - 1 for k in range(n)],
        "next_rank": [None if k in ends else k + 1 for k in range(n)],
        "top1_id": (flat + 1) % 51,
        "varentropy": row / 128 + 0.0625,
    }
    arrays = [pa.array(columns[f.name], f.type) for f in TOKENS_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=TOKENS_SCHEMA)
