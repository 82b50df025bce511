"""Make the golden store of the current format version: `python tests/store/make_golden.py`.

Each format version has one, made when the version is frozen and never again: every later release
must read what this one wrote. Until format 3 is released, remove `golden/v3` and make it anew after
a change of the format; the same code makes the same bytes, and store/SPEC.md quotes some of them.

- `golden/v1` was made before the column `varentropy` was added, and lacks it.
- `golden/v2` holds what version 2 brings: moments, and a prompt that is set aside.
- `golden/v3` holds one of each thing that this release writes: rows and moments, arrays of several
  chunks, every stored dtype, a prompt and texts that are set aside, a source of scores.

Values are distinct, so that no two columns can be taken for each other.
"""

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa

from lpp.store import RunWriter, add_scores, create_store
from lpp.store.arrays.moments import SiteMoments
from lpp.store.format.plan import (
    ComputeInfo,
    CorpusInfo,
    ModelInfo,
    Plan,
    PromptsInfo,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.format.quarantine import SetAside, TextSetAside, quarantine_table, texts_table
from lpp.store.format.tables import PROMPTS_SCHEMA, SCORES_SCHEMA, STATISTICS, TOKENS_SCHEMA

SCALE = {"embed": 1, "block.1": 10, "final": 100}
TOKEN_IDS = ([11, 12, 13], [21, 22])
NOT_FINITE = np.array([[0x7FC1, 0x8000], [0x7F80, 0xFF81]], "<u2")
"""Rows of `embed` of the prompt that v3 sets aside: NaN with payloads, -0.0, infinity."""

FLOAT32_ROWS = np.array([[1.5, -0.0], [2.5, 1e-45], [3.5, -3e38], [4.5, 0.1], [5.5, -5.5]], "<f4")
FLOAT16_ROWS = np.array([[1.5, -0.0], [2.5, 6e-8], [3.5, -65504], [4.5, 0.1], [5.5, -5.5]], "<f2")


def golden_prompts() -> pa.Table:
    """Two prompts, of three tokens and of two."""
    digests = [hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest() for ids in TOKEN_IDS]
    columns = [[0, 1], [40, 70], list(TOKEN_IDS), [3, 2], [True, False], digests]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PROMPTS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PROMPTS_SCHEMA)


def golden_plan(prompts: pa.Table) -> Plan:
    """Every field with a value of its own."""
    digests = b"".join(bytes.fromhex(text) for text in prompts["sha256"].to_pylist())
    return Plan(
        model=ModelInfo(
            id="golden/Model-1B",
            source="folder",
            revision="model-revision",
            weights="model-weights",
            architecture="GoldenForCausalLM",
            n_parameters=1001,
            n_blocks=1,
            hidden_size=2,
            logits_width=103,
            untrained_seed=42,
        ),
        tokenizer=TokenizerInfo(id="golden/tokenizer", fingerprint="tokenizer-print", size=101),
        corpus=CorpusInfo(
            name="golden-corpus",
            revision="corpus-revision",
            fingerprint="corpus-print",
            prompt_set="prompt-set-print",
            selection={"prompts": 2, "min_bytes": 512, "select": "random", "count_with": None},
        ),
        prompts=PromptsInfo(count=2, tokens=5, sha256=hashlib.sha256(digests).hexdigest()),
        context=3,
        prefixes=(2, 3),
        logit_positions="all",
        sites=(
            SiteSpec(name="embed", convention="residual", width=2),
            SiteSpec(name="block.1", convention="residual", width=2),
            SiteSpec(name="final", convention="post_norm", width=2),
        ),
        compute=ComputeInfo(
            backend="torch",
            device="cpu",
            dtype="float32",
            attention="eager",
            batch_tokens=640,
            device_map="auto",
            quantization="int8",
            trust_remote_code=True,
            versions={"torch": "2.13.0", "transformers": "5.1.0"},
        ),
        stored_dtype="bfloat16",
        shards=(0, 1, 2),
    )


def golden_shard(index: int) -> tuple[dict[str, np.ndarray], pa.Table]:
    """Rows k of shard `index`: embed k + 1, block.1 10 (k + 1), final 100 (k + 1), then negated."""
    ids = TOKEN_IDS[index]
    k = np.arange(len(ids)) + (3 if index else 0) + 1
    hidden = {
        site: (np.stack([k * by, -k * by], 1).astype("<f4").view("<u4") >> 16).astype(np.uint16)
        for site, by in SCALE.items()
    }
    last = k == k[-1]
    columns = {
        "prompt_id": np.full(len(ids), index),
        "position": np.arange(len(ids)),
        "token_id": ids,
        "entropy": k + 0.25,
        "log_z": k + 30.5,
        "max_logprob": -k / 8,
        "margin": k / 16,
        "next_logprob": pa.array(-k / 2.0, mask=last),
        "next_rank": pa.array(k + 200, mask=last),
        "top1_id": k + 60,
        "varentropy": k + 0.75,
    }
    arrays = [pa.array(columns[f.name]).cast(f.type) for f in TOKENS_SCHEMA]
    return hidden, pa.Table.from_arrays(arrays, schema=TOKENS_SCHEMA)


def golden_moments(dtype: str) -> dict[str, SiteMoments]:
    """Of the rows of shard 0: k = 1, 2 in the first band, k = 3 in the second."""
    return {
        site: SiteMoments(
            n=np.array([2, 1]),
            mean=np.array([[1.5, -1.5], [3.0, -3.0]]) * by,
            scatter=np.array([[0.5, -0.5, 0.5], [0, 0, 0]], dtype) * np.array(by**2, dtype),
        )
        for site, by in SCALE.items()
    }


def nothing(dtype: str) -> dict[str, SiteMoments]:
    """Of a shard whose only prompt is set aside."""
    empty = SiteMoments(
        n=np.zeros(2, np.int64), mean=np.zeros((2, 2)), scatter=np.zeros((2, 3), dtype)
    )
    return dict.fromkeys(SCALE, empty)


def without_statistics(tokens: pa.Table, rows: list[bool]) -> pa.Table:
    """`tokens` with every statistic null where `rows` says so."""
    for name in STATISTICS:
        place = tokens.schema.get_field_index(name)
        values = tokens[name].to_numpy(zero_copy_only=False)
        null = np.array(rows) | tokens[name].is_null().to_numpy(zero_copy_only=False)
        column = pa.array(np.nan_to_num(values), mask=null).cast(tokens.field(place).type)
        tokens = tokens.set_column(place, tokens.field(place), column)
    return tokens


def golden_scores() -> pa.Table:
    """Two scores of a source, one with everything that may be null."""
    rows = [
        ("Model-1B", "model-1b-untrained", "arc", "acc", 0.25, 0.125, 40, "golden board", "csv"),
        ("Model-2B", None, "arc", "acc", 0.75, None, None, "golden board", "csv"),
    ]
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(c, field.type) for c, field in zip(columns, SCORES_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCORES_SCHEMA)


def write_rows_and_moments(root: Path, prompts: pa.Table) -> None:
    """A run of two shards, the second of a prompt that is set aside; texts set aside before."""
    plan = golden_plan(prompts)
    compute = replace(plan.compute, engine_options={"max_num_seqs": "8"})
    plan = replace(plan, keep="both", compute=compute)
    texts = texts_table(
        [
            TextSetAside(source_row=5, reason="empty", detail="no characters"),
            TextSetAside(source_row=6, reason="not_utf8", detail="byte 0xff at 3"),
        ]
    )
    writer = RunWriter(root, plan, prompts, set_aside=texts)
    writer.write_shard(0, *golden_shard(0), moments=golden_moments("float64"))
    hidden, tokens = golden_shard(1)
    hidden["embed"] = NOT_FINITE
    aside = SetAside(
        prompt_id=1, reason="not_finite", site="embed", position=0, detail="NaN at token 0"
    )
    tokens = without_statistics(tokens, [True, True])
    writer.write_shard(1, hidden, tokens, quarantine_table([aside]), moments=nothing("float64"))
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


def write_dtype(root: Path, prompts: pa.Table, rows: np.ndarray) -> None:
    """A run of one site and one shard in another dtype, with statistics where a schedule asks."""
    plan = golden_plan(prompts)
    plan = replace(
        plan,
        model=replace(plan.model, id=f"golden/{rows.dtype.name}.gguf", untrained_seed=None),
        stored_dtype=rows.dtype.name,
        sites=plan.sites[-1:],
        logit_positions="schedule",
        shards=(0, 2),
    )
    tokens = pa.concat_tables([golden_shard(0)[1], golden_shard(1)[1]])
    tokens = without_statistics(tokens, [True, False, False, True, False])
    writer = RunWriter(root, plan, prompts)
    writer.write_shard(0, {"final": rows}, tokens)
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


def main() -> None:
    """Write the store of version 3 beside this script."""
    root = Path(__file__).with_name("golden") / "v3"
    if root.exists():
        raise SystemExit(f"{root} is frozen: remove it only before its version is released.")
    count = itertools.count()

    def token_hex(n: int) -> str:
        """The same names of attempts each time."""
        return hashlib.sha256(str(next(count)).encode()).hexdigest()[: 2 * n]

    small_chunks = mock.patch("lpp.store.arrays.layout.CHUNK_BYTES", 8)  # two rows of bfloat16
    with mock.patch("secrets.token_hex", token_hex), small_chunks:
        create_store(root)
        prompts = golden_prompts()
        write_rows_and_moments(root, prompts)
        for rows in (FLOAT16_ROWS, FLOAT32_ROWS):
            write_dtype(root, prompts, rows)
        files = {"board.csv": b"model,arc\nModel-1B,0.25\nModel-2B,0.75\n"}
        add_scores(root, "golden board", golden_scores(), files)


if __name__ == "__main__":
    main()
