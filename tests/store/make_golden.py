"""Make the golden stores of the format versions that are written: `python -m
tests.store.make_golden`.

Each format version has one, made when the version is frozen and never again: every later release
must read what this one wrote. Until a version is released, remove its store and make it anew after
a change of the format; the same code makes the same bytes, and store/SPEC.md quotes some of them.

- `golden/v1` and `golden/v2` are of 0.1.0, and refused.
- A run of `v3` and that of `v4` hold moments, which no release after 0.2.0 reads. This script
  writes none.
- `golden/v3` holds one of each thing that this release writes: arrays of several chunks, every
  stored dtype, a prompt and texts that are set aside, a source of scores; and a run that is a step
  of a series, with a continuation, columns of the corpus, a head and a vocabulary.
- `golden/v4` holds what version 4 brings: a prompt that branches off another.
- `golden/v5` holds what version 5 brings: rows that another program collected, of floats and of
  integers; rows of 8 bits; a loss mask.
- `golden/planes` holds chunks that are packed plane by plane, in every dtype of floats, with rows
  that repeat and rows that do not. They are of version 3.

Values are distinct, so that no two columns can be taken for each other.
"""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.analyze.logits.proof import check_logits
from lpp.store import RowSink, RunWriter, add_scores, create_store, sink
from lpp.store.format.commit_record import ContinuationSource
from lpp.store.format.plan import (
    ComputeInfo,
    ContinuationInfo,
    CorpusInfo,
    ModelInfo,
    Plan,
    PromptsInfo,
    Series,
    SiteSpec,
    StoredDtype,
    TokenizerInfo,
)
from lpp.store.format.quarantine import SetAside, TextSetAside, quarantine_table, texts_table
from lpp.store.format.rows import branches_sha256
from lpp.store.format.tables import (
    PROMPTS_SCHEMA,
    SCORES_SCHEMA,
    STATISTICS,
    TOKENS_SCHEMA,
    VOCABULARY_SCHEMA,
    WRITTEN_SCHEMA,
)
from lpp.store.objects.locate import objects_at
from lpp.store.shared.continuations import commit_block, settled_seed
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import HeadContent, Steps
from lpp.store.shared.matrices import Matrix
from lpp.store.shared.vocabularies import add_vocabulary

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


def write_rows(root: Path, prompts: pa.Table) -> None:
    """A run of two shards, the second of a prompt that is set aside; texts set aside before."""
    plan = golden_plan(prompts)
    compute = replace(plan.compute, engine_options={"max_num_seqs": "8"})
    plan = replace(plan, compute=compute)
    texts = texts_table(
        [
            TextSetAside(source_row=5, reason="empty", detail="no characters"),
            TextSetAside(source_row=6, reason="not_utf8", detail="byte 0xff at 3"),
        ]
    )
    writer = RunWriter(root, plan, prompts, set_aside=texts)
    writer.write_shard(0, *golden_shard(0))
    hidden, tokens = golden_shard(1)
    hidden["embed"] = NOT_FINITE
    aside = SetAside(
        prompt_id=1, reason="not_finite", site="embed", position=0, detail="NaN at token 0"
    )
    tokens = without_statistics(tokens, [True, True])
    writer.write_shard(1, hidden, tokens, quarantine_table([aside]))
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


def write_dtype(root: Path, prompts: pa.Table, dtype: StoredDtype, rows: np.ndarray) -> None:
    """A run of one site and one shard in `dtype`, with statistics where a schedule asks."""
    plan = golden_plan(prompts)
    plan = replace(
        plan,
        model=replace(plan.model, id=f"golden/{dtype}.gguf", untrained_seed=None),
        stored_dtype=dtype,
        sites=plan.sites[-1:],
        logit_positions="schedule",
        shards=(0, 2),
    )
    tokens = pa.concat_tables([golden_shard(0)[1], golden_shard(1)[1]])
    tokens = without_statistics(tokens, [True, False, False, True, False])
    writer = RunWriter(root, plan, prompts)
    writer.write_shard(0, {"final": rows}, tokens)
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


def plane_rows(dtype: StoredDtype) -> npt.NDArray[Any]:
    """(5, 64) rows as stored: skewed high bytes, low bytes without order; the third is the first
    again.
    """
    k = np.arange(5 * 64, dtype=np.uint64).reshape(5, 64) + np.uint64(1)
    noise = (k * np.uint64(6364136223846793005)) >> np.uint64(32)
    noise[2] = noise[0]
    exponent = np.uint64(124) + (noise & noise >> np.uint64(2) & np.uint64(3))
    bits = (noise >> np.uint64(31) << np.uint64(31)) | exponent << np.uint64(23)
    bits = (bits | noise & np.uint64((1 << 23) - 1)).astype("<u4")
    rows: npt.NDArray[Any] = (bits >> np.uint32(16)).astype("<u2")
    return rows if dtype == "bfloat16" else bits.view("<f4").astype(dtype)


def write_planes(root: Path, prompts: pa.Table) -> None:
    """A run of two sites for each dtype."""
    for dtype in ("bfloat16", "float16", "float32"):
        plan = golden_plan(prompts)
        plan = replace(
            plan,
            model=replace(plan.model, id=f"golden/planes-{dtype}", untrained_seed=None),
            stored_dtype=dtype,
            sites=tuple(replace(site, width=64) for site in plan.sites[1:]),
            shards=(0, 2),
        )
        tokens = pa.concat_tables([golden_shard(0)[1], golden_shard(1)[1]])
        rows = plane_rows(dtype)
        writer = RunWriter(root, plan, prompts)
        writer.write_shard(0, {"block.1": rows, "final": rows[[0, 1, 4, 3, 4]]}, tokens)
        print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


FLOAT8_ROWS = np.array(
    [
        [448, 17.0, 2**-9, 2**-10],  # the largest value; ties; codes below the normal ones
        [449, -17.0, 3, 1],  # the next scale
        [2**-127, -(2**-126), 2**-130, 0],  # the least scale
        [np.nan, -np.inf, 2, 1],  # set aside
        [0, -0.0, 0, 0],
    ],
    "<f4",
)


def golden_v5_fp8(root: Path, prompts: pa.Table) -> None:
    """A run of two sites and one shard: `block.1` in float8_e4m3, `final` as computed; tokens have
    a loss mask.
    """
    mask = pa.array([[False, True, True], None], pa.list_(pa.bool_()))
    prompts = prompts.append_column("token.loss_mask", mask)
    plan = golden_plan(prompts)
    sites = [replace(site, width=4) for site in plan.sites[1:]]
    plan = replace(
        plan,
        model=replace(plan.model, id="golden/fp8", untrained_seed=None),
        sites=(replace(sites[0], dtype="float8_e4m3"), sites[1]),
        prompts=replace(plan.prompts, token_columns=("token.loss_mask",)),
        stored_dtype="float32",
        shards=(0, 2),
    )
    tokens = pa.concat_tables([golden_shard(0)[1], golden_shard(1)[1]])
    tokens = without_statistics(tokens, [False, False, False, True, True])
    aside = SetAside(
        prompt_id=1, reason="not_finite", site="block.1", position=0, detail="NaN at token 0"
    )
    hidden = {"block.1": FLOAT8_ROWS, "final": FLOAT8_ROWS}
    writer = RunWriter(root, plan, prompts)
    writer.write_shard(0, hidden, tokens, quarantine_table([aside]))
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


SERIES = Series(name="golden run", step=1000)
CONTINUATION = ContinuationInfo(
    given_context=2, tokens=1, temperature="0.7", seed=7, end_ids=(2, 5)
)
CARRIED = {
    "n_given": pa.array([2, 1], pa.int32()),
    "written_logprob": pa.array([[-1.5], [-0.25]], pa.list_(pa.float32())),
    "id": pa.array([2**53 + 1, None], pa.int64()),
    "text": pa.array(["a text, \u00e9", None], pa.string()),
    "field.count": pa.array([-3, None], pa.int64()),
    "field.label": pa.array([None, "news"], pa.string()),
    "field.score": pa.array([None, 0.5], pa.float64()),
    "field.train": pa.array([True, None], pa.bool_()),
}
"""What the prompts of the last run carry, in the order of the columns."""

HEAD = HeadContent(
    matrix=Matrix(
        dtype="float32",
        weight=np.stack([np.arange(103), np.zeros(103)], 1).astype("<f4"),
        bias=np.full((103, 1), 8, "<f4"),
    ),
    steps=Steps(divisor=4.0),
)
"""Of a row (x, y) the logit of token v is (v x + 8) / 4: exact in float32 for the rows below."""


def golden_written() -> pa.Table:
    """What the model wrote after the two prompts: their last token."""
    columns = [[0, 1], [[13], [22]], CARRIED["written_logprob"]]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, WRITTEN_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=WRITTEN_SCHEMA)


def golden_source(plan: Plan) -> ContinuationSource:
    """What decided the tokens that the model wrote."""
    given = [np.array(ids[:-1], "<i4").tobytes() for ids in TOKEN_IDS]
    digests = b"".join(hashlib.sha256(ids).digest() for ids in given)
    return ContinuationSource(
        weights=plan.model.weights,
        untrained_seed=None,
        tokenizer=plan.tokenizer.fingerprint,
        given=hashlib.sha256(digests).hexdigest(),
        compute=plan.compute,
        continuation=CONTINUATION,
    )


def golden_vocabulary() -> pa.Table:
    """A special token, a word, part of a character, a line feed; ids with a gap."""
    columns = [
        [0, 11, 12, 100],
        [None, b" the", b"\xf0\x9f", b"\n"],
        ["<|end|>", " the", "\ufffd", "\n"],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, VOCABULARY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=VOCABULARY_SCHEMA)


def write_shared(root: Path, prompts: pa.Table) -> None:
    """A step of a series whose model wrote the last token of each prompt, and what runs share."""
    plan = golden_plan(prompts)
    plan = replace(
        plan,
        model=replace(
            plan.model,
            id="golden/shared",
            weights="shared-weights",
            untrained_seed=None,
            series=SERIES,
        ),
        stored_dtype="float32",
        sites=plan.sites[-1:],
        shards=(0, 2),
        continuation=CONTINUATION,
    )
    for name, values in CARRIED.items():
        prompts = prompts.append_column(name, values)
    tokens = pa.concat_tables([golden_shard(0)[1], golden_shard(1)[1]])
    k = np.arange(5) + 1
    exact = {"entropy": 0 * k, "log_z": (102 * 100 * k + 8) / 4, "top1_id": 0 * k + 102}
    for name, column in exact.items():
        place = tokens.schema.get_field_index(name)
        field = tokens.schema.field(place)
        tokens = tokens.set_column(place, field, pa.array(column).cast(field.type))
    objects = objects_at(root)
    settled_seed(objects, golden_source(plan), 7)
    commit_block(objects, golden_source(plan), 0, golden_written())
    writer = RunWriter(root, plan, prompts)
    rows = np.stack([100 * k, -100 * k], 1).astype("<f4")
    writer.write_shard(0, {"final": rows}, tokens)
    commit_head(objects, plan, HEAD)
    add_vocabulary(root, plan.tokenizer.fingerprint, golden_vocabulary())
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}; {check_logits(writer.run)}")


def write_branches(root: Path, prompts: pa.Table) -> None:
    """A run of two shards, the second of a branch."""
    for name, values in (("branch_of", [None, 0]), ("branch_at", [None, 1])):
        prompts = prompts.append_column(name, pa.array(values, pa.int32()))
    plan = golden_plan(prompts)
    plan = replace(
        plan,
        prompts=replace(plan.prompts, branches=branches_sha256(prompts)),
        model=replace(plan.model, id="golden/branches", untrained_seed=None),
    )
    writer = RunWriter(root, plan, prompts)
    writer.write_shard(0, *golden_shard(0))
    writer.write_shard(1, *golden_shard(1))
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


def given_sink(root: Path) -> RowSink:
    """A run of another program: floats, integers, and a prompt that cannot be used."""
    given = [
        {"input_ids": ids, "id": name, "label": label}
        for ids, name, label in zip(TOKEN_IDS, ("a", "b"), (1.5, None), strict=True)
    ]
    return sink(
        root,
        model={"id": "golden/given", "revision": "given-revision", "logits_width": 103},
        tokenizer="golden/tokenizer",
        sites={"blocks.0.hook_z": 2, "blocks.0.scale": (1, "float32"), "router.0": (2, "uint8")},
        prompts=[*given, [103]],
        dtype="bfloat16",
        collector="golden-collector",
        versions={"golden": "1.0"},
        corpus="golden-corpus",
        shard_bytes=1,
    )


def write_given(root: Path, prompts: pa.Table) -> None:
    """The first prompt's rows; the second has none."""
    k = np.arange(3) + 1
    with given_sink(root) as rows:
        rows.set_aside(1, "no rows")
        z = np.stack([k, -k], 1).astype("<f4").view("<u4") >> 16
        scale, router = (k / 10).astype("<f4"), np.stack([k, 256 - k], 1)
        values = {"blocks.0.hook_z": z.astype(np.uint16), "blocks.0.scale": scale}
        rows.put(0, {**values, "router.0": router})
    print(f"{rows.run.path}: {rows.run.verify() or 'whole'}")


def write_v5(root: Path, prompts: pa.Table) -> None:
    """All that version 5 has."""
    write_given(root, prompts)
    golden_v5_fp8(root, prompts)


def main() -> None:
    """Write each store that does not exist yet, beside this script."""
    stores = {"v3": write_all, "v4": write_branches, "v5": write_v5, "planes": write_planes}
    for version, write in stores.items():
        root = Path(__file__).with_name("golden") / version
        if root.exists():
            print(f"{root} is frozen: remove it only before its version is released.")
        else:
            write_alike(root, write, PLANE_CHUNKS if write is write_planes else SMALL_CHUNKS)


SMALL_CHUNKS = 8
"""Two rows of bfloat16."""
PLANE_CHUNKS = 512
"""Two rows of float32: planes of 128 bytes."""


def write_alike(
    root: Path, write: Callable[[Path, pa.Table], None], chunk_bytes: int = SMALL_CHUNKS
) -> None:
    """Write a store with the same bytes each time."""
    count = itertools.count()

    def token_hex(n: int) -> str:
        """The same names of attempts each time."""
        return hashlib.sha256(str(next(count)).encode()).hexdigest()[: 2 * n]

    small_chunks = mock.patch("lpp.store.arrays.layout.CHUNK_BYTES", chunk_bytes)
    with mock.patch("secrets.token_hex", token_hex), small_chunks:
        create_store(root)
        write(root, golden_prompts())


def write_all(root: Path, prompts: pa.Table) -> None:
    """All that version 3 has."""
    write_rows(root, prompts)
    write_dtype(root, prompts, "float16", FLOAT16_ROWS)
    write_dtype(root, prompts, "float32", FLOAT32_ROWS)
    files = {"board.csv": b"model,arc\nModel-1B,0.25\nModel-2B,0.75\n"}
    add_scores(root, "golden board", golden_scores(), files)
    write_shared(root, prompts)


if __name__ == "__main__":
    main()
