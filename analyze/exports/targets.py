"""Targets of a teacher as Parquet, a row for each prompt: for trainers that read ids and ln p.

Columns, named as in axolotl's collator for distillation:

    prompt_id          int32
    input_ids          list<int32>           the tokens of the prompt
    target_token_ids   list<list<int32>>     for each token, k ids
    target_logprobs    list<list<float32>>   ln p of each, over the whole vocabulary
    loss_mask          list<bool>            if the run has one; null for a prompt without

Targets at position t are of the token at t + 1, so those of the last position are of a token that
the prompt does not have. The loss mask at t is of the token at t. The k most likely tokens come
first; samples as drawn, with repetitions, each with weight 1/samples whatever its ln p.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.analyze.questions import TargetSettings
from lpp.sql.results.output import whole_file
from lpp.store.draws import Integers
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.feed.checks import check_feed
from lpp.store.feed.chosen import readable_prompts
from lpp.store.format.prompt_columns import LOSS_MASK
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.settings.arguments import check_word
from lpp.store.teacher import Targets, Teacher, teacher
from lpp.store.units import counted

TargetKind: TypeAlias = Literal["topk", "sampled"]
"""The k most likely tokens, or tokens drawn from the distribution."""

METADATA_KEY: Final = b"lpp"
"""Key of the file's metadata: run, model and settings, as JSON."""

GROUP_BYTES: Final = 64 << 20
"""Bytes of the rows and targets of a row group, about; a longer prompt is a group of its own."""

TARGETS: Final = pa.schema(
    {
        "prompt_id": pa.int32(),
        "input_ids": pa.list_(pa.int32()),
        "target_token_ids": pa.list_(pa.list_(pa.int32())),
        "target_logprobs": pa.list_(pa.list_(pa.float32())),
    }
)
"""Columns of every file."""

WRITING: Final[dict[str, Any]] = {
    "compression": "zstd",
    "use_dictionary": ["prompt_id", "target_token_ids.list.element.list.element"],
    "column_encoding": {"target_logprobs.list.element.list.element": "BYTE_STREAM_SPLIT"},
}
"""How the file is encoded. Of logits in bfloat16, ln p takes 0.9 bytes instead of the 2.3 of
pyarrow's own choice, a dictionary, and a token takes as many in a small row group."""


def export_targets(
    run: Run,
    path: Path,
    kind: TargetKind,
    settings: TargetSettings = TargetSettings(),
    *,
    progress: Progress = SILENT,
) -> int:
    """Write the targets of `run` to the Parquet file `path`; return the number of prompts.

    Prompts come in order, a row group at a time. Prompts that were set aside and branches are left
    out. progress: advances by one for each prompt.

    Raises InputError if `path` exists; ConflictError(IN_USE) if another process wrote it meanwhile,
    which stays; InputError for a run without rows of `final` or without its head, for
    missing shards and for a condition that is none; FormatError for altered bytes. The file appears
    once it is complete.
    """
    import pyarrow.parquet as pq

    check_word("kind", kind, TargetKind)
    if path.exists():
        raise InputError(f"{path} exists. Remove it, or name another file with -o.")
    source = teacher(run)
    check_feed([run], ("final",), "float32")
    kept = readable_prompts(run, settings.where)
    prompts = np.flatnonzero(kept)
    if not len(prompts):
        raise InputError(
            f"run {run.id}: no prompt is left to write. Change --where.", kind=ErrorKind.NOT_FOUND
        )
    if left_out := len(kept) - len(prompts):
        progress.warn(
            f"{counted(left_out, 'prompt is', 'prompts are')} left out: set aside, a branch, or "
            "not in --where."
        )
    progress.expect(len(prompts))
    schema = target_schema(source, kind, settings)
    chosen = settings.chosen(kind)
    table = run.prompts(*(n for n in (LOSS_MASK,) if n in run.plan.prompts.token_columns))
    with whole_file(path) as beside, pq.ParquetWriter(beside, schema, **WRITING) as file:
        for group in row_groups(source, prompts, next(iter(chosen.values()))):
            final, prompt_ids = final_rows(run, group)
            targets = source.targets(
                final,
                **chosen,
                prompt_ids=prompt_ids,
                temperature=settings.temperature,
                like="numpy",
            )
            file.write_table(target_table(table.take(group), targets, schema))
            progress.advance(len(group))
        if beside != path and path.exists():
            raise ConflictError(
                f"{path}: another process wrote it meanwhile, and it stays as it is. Name another "
                "file.",
                kind=ErrorKind.IN_USE,
            )
    return len(prompts)


def target_schema(source: Teacher, kind: TargetKind, settings: TargetSettings) -> pa.Schema:
    """Columns of the file, and its metadata."""
    run = source.run
    mask = pa.field("loss_mask", pa.list_(pa.bool_()))
    columns = [*TARGETS, mask] if LOSS_MASK in run.plan.prompts.token_columns else [*TARGETS]
    metadata = {
        "run": run.id,
        "model": run.plan.model.id,
        "revision": run.plan.model.revision,
        "weights": run.plan.model.weights,
        "tokenizer": run.plan.tokenizer.fingerprint,
        "vocabulary": source.head.vocabulary,
        "targets": kind,
        **settings.chosen(kind),
        "temperature": settings.temperature,
        "where": settings.where,
        "lossy": source.lossy,
        "position": "targets at position t are of the token at t + 1",
        "lpp-engine": version("lpp-engine"),
    }
    return pa.schema(columns, metadata={METADATA_KEY: json.dumps(metadata)})


def row_groups(source: Teacher, prompts: Integers, count: int) -> Iterator[Integers]:
    """Groups of `prompts`, ids in ascending order, of about `GROUP_BYTES`. count: targets of a
    token.
    """
    lengths = source.run.lengths[prompts]
    token_bytes = 4 * source.head.width + 24 * count  # rows, ids twice, ln p twice
    begins = (np.cumsum(lengths) - lengths) * token_bytes // GROUP_BYTES
    starts = np.flatnonzero(np.diff(begins, prepend=-1))
    for first, end in pairwise([*starts.tolist(), len(prompts)]):
        yield prompts[first:end]


def final_rows(run: Run, prompts: Integers) -> tuple[npt.NDArray[np.float32], Integers]:
    """The rows of `final` of some prompts, (n, d), and the prompt of each, (n,). prompts: their
    ids, in ascending order; none that was set aside. InputError if a shard is missing.
    """
    parts, ids = [], []
    for block in run.blocks("final", first=int(prompts[0]), prompts=int(prompts[-1]) + 1):
        chosen = block.without(np.setdiff1d(block.prompt_id, prompts))
        parts.append(chosen.values)
        ids.append(chosen.prompt_id)
    if sum(map(len, ids)) != run.lengths[prompts].sum():
        raise InputError(
            f"run {run.id}: a shard of prompts {prompts[0]} to {prompts[-1]} is missing. Repeat "
            "the command that captures the run.",
            kind=ErrorKind.INCOMPLETE,
        )
    return np.concatenate(parts), np.concatenate(ids).astype(np.int64)


def target_table(prompts: pa.Table, targets: Targets, schema: pa.Schema) -> pa.Table:
    """The rows of the file for some prompts, with the targets of all of their tokens."""
    n, count = targets.token_ids.shape
    inner = pa.array(np.arange(n + 1) * count, pa.int32())
    outer = pa.array(np.append(0, np.cumsum(prompts["n_tokens"])), pa.int32())
    flat: list[Any] = [targets.token_ids.astype(np.int32), targets.logprobs]
    lists = [
        pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, values.reshape(-1)))
        for values in flat
    ]
    masks = [prompts[LOSS_MASK]] if "loss_mask" in schema.names else []
    columns = [prompts["prompt_id"], prompts["token_ids"], *lists, *masks]
    return pa.table(dict(zip(schema.names, columns, strict=True))).cast(schema)
