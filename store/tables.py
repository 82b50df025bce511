"""The Arrow tables of a store, SPEC.md sections 5 and 7: prompts, tokens, benchmark scores."""

from pathlib import Path
from typing import Final

import pyarrow as pa

from lpp.store.errors import ErrorKind, FormatError

PROMPTS_SCHEMA: Final = pa.schema(
    [
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
"""One row per prompt: what was fed to the model, and the row of the corpus it came from."""

STATISTICS: Final = (
    "entropy",
    "log_z",
    "max_logprob",
    "margin",
    "next_logprob",
    "next_rank",
    "top1_id",
    "varentropy",
)
"""Columns of `tokens.arrow` computed from the logits; null where the plan did not ask."""

OPTIONAL_COLUMNS: Final = frozenset({"varentropy"})
"""Columns that the first release of format 1 did not write: where a file lacks one it is null."""

TOKENS_SCHEMA: Final = pa.schema(
    [
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("entropy", pa.float32()),
        pa.field("log_z", pa.float32()),
        pa.field("max_logprob", pa.float32()),
        pa.field("margin", pa.float32()),
        pa.field("next_logprob", pa.float32()),
        pa.field("next_rank", pa.int32()),
        pa.field("top1_id", pa.int32()),
        pa.field("varentropy", pa.float32()),
    ]
)
"""One row per token: `next_*` are null at a prompt's last token."""


SCORES_SCHEMA: Final = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("run", pa.string()),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("stderr", pa.float64()),
        pa.field("n", pa.int64()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
    ]
)
"""One row per score. `run`: the run of this store that it was said to belong to, if any."""


def encode_table(table: pa.Table) -> bytes:
    """An Arrow IPC file with zstd, one record batch per 64 Ki rows."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=1 << 16)
    return bytes(sink.getvalue())


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, every row; others are ignored, absent optional ones null.

    FormatError(CORRUPT) for a file that is no such table.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{path}: not a readable Arrow file ({error}).", kind=ErrorKind.CORRUPT
        ) from None
    for field in schema:
        if field.name in OPTIONAL_COLUMNS and field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    names = table.schema.names
    wrong = [
        field.name
        for field in schema
        if names.count(field.name) != 1 or not table.schema.field(field.name).equals(field)
    ]
    if wrong:
        raise FormatError(
            f"{path}: columns missing or not as format 1 declares them: {', '.join(wrong)}.",
            kind=ErrorKind.CORRUPT,
        )
    return table.select(schema.names)
