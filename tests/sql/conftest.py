"""Small stores with known tables; every column of a row has a value of its own."""

import hashlib
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from stored import object_path

from lpp.sql import TABLES, arrow_schema, build
from lpp.sql.schema import Table
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

HOSTILE = ("<img src=x onerror=alert(1)>", "'; DROP TABLE profiles; --", 'a "b", c\nd\x1b[31m')
COUNTED = {"BOOLEAN", "INTEGER", "BIGINT", "DOUBLE", "INTEGER[]"}


def distinct_row(table: Table, number: int) -> dict[str, Any]:
    """A row whose every value says its column and row."""
    return {
        column.name: {
            "BOOLEAN": number % 2 == 1,
            "INTEGER": 1000 * number + place,
            "BIGINT": 10**12 + 1000 * number + place,
            "DOUBLE": number + place / 100,
            "FLOAT": number + place / 64,  # exact
            "VARCHAR": f"{column.name}-{number}",
            "JSON": f'{{"{column.name}": {number}}}',
            "INTEGER[]": [number, place],
            "VARCHAR[]": [f"{column.name}-{number}", "more"],
        }[column.type]
        for place, column in enumerate(table.columns, start=1)
    }


def distinct_rows(name: str, count: int) -> list[dict[str, Any]]:
    return [distinct_row(TABLES[name], number) for number in range(1, count + 1)]


@pytest.fixture
def rows() -> Callable[[str, int], list[dict[str, Any]]]:
    """Called with a table's name and n: n distinct rows of it."""
    return distinct_rows


@pytest.fixture
def tables() -> dict[str, pa.Table]:
    """Three rows of every declared table."""
    return three_rows()


def three_rows() -> dict[str, pa.Table]:
    return {
        name: pa.Table.from_pylist(distinct_rows(name, 3), schema=arrow_schema(name))
        for name in TABLES
    }


@pytest.fixture
def empty_store(tmp_path: Path) -> Path:
    """A store without runs or profiles, under a name that must be quoted."""
    return make_empty_store(tmp_path)


def make_empty_store(folder: Path) -> Path:
    root = folder / "it's a; store"
    root.mkdir()
    (root / "lpp.json").write_text('{"format": "lpp-store", "version": 1}')
    return root


@pytest.fixture(scope="session")
def built_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `store` is a copy of."""
    root = make_empty_store(tmp_path_factory.mktemp("built"))
    build(root, three_rows())
    return root


@pytest.fixture
def store(built_store: Path, tmp_path: Path) -> Path:
    """A store with profiles but no token files."""
    return shutil.copytree(built_store, tmp_path / built_store.name)


@pytest.fixture
def hostile() -> tuple[str, ...]:
    """Names of models that mean something to a browser, to SQL, to a terminal."""
    return HOSTILE


@dataclass(frozen=True)
class Captured:
    """A run of a store, and the rows of `token_stats` that it should give."""

    run: Run
    rows: list[dict[str, Any]]

    @property
    def id(self) -> str:
        return self.run.id

    def shard(self, index: int) -> Path:
        """Directory of one shard."""
        return self.run.path / "shards" / f"{index:05d}"

    def file(self, index: int, name: str) -> Path:
        """An object of one shard, or its record."""
        shard = self.shard(index)
        return shard / name if name == "COMMIT.json" else object_path(shard, name)


@pytest.fixture
def write_run() -> Callable[..., Captured]:
    """Called with a store's root and what should differ: writes a run of distinct values."""
    return write_small_run


def write_small_run(
    root: Path,
    model: str = "Lab/a",
    shards: Sequence[Sequence[int]] = ((3, 2), (4,)),
    *,
    quarantined: Sequence[int] = (),
    missing: Sequence[int] = (),
    given: Sequence[int] = (),
) -> Captured:
    """shards: lengths of the prompts of each shard. quarantined: prompts. missing: shards. given:
    tokens of each prompt that its model did not write; none where it wrote nothing.
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
    return Captured(open_store(root).runs[plan.run_id], kept)


@pytest.fixture
def lpp_sql() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the installed program as a user does."""
    program = str(Path(sys.executable).with_name("lpp-sql"))

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)

    return run
