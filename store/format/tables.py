"""The Arrow tables of a store, SPEC.md sections 5 to 7: prompts, tokens, scores, vocabularies."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.arrow_limits import check_declared
from lpp.store.format.keys import ADVICE

ROW_BYTES: Final = 1024
"""Bytes that a row may take in memory, lists aside. Ours take 45 to 90: columns may be added."""

TABLE_BYTES: Final = 64 << 10
"""Bytes that a table may take whatever its rows: padding of each buffer."""

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

OPTIONAL_COLUMNS: Final = frozenset({"item_cluster", "n_answer"})
"""Columns that earlier releases did not write: where a file lacks one it is null."""

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

ITEMS_SCHEMA: Final = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("run", pa.string()),
        pa.field("task", pa.string(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("filter", pa.string(), nullable=False),
        pa.field("item_group", pa.string()),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("log_likelihoods", pa.list_(pa.float64()), nullable=False),
        pa.field("greedy", pa.list_(pa.bool_()), nullable=False),
        pa.field("gold", pa.int32()),
        pa.field("chosen", pa.int32()),
        pa.field("correct", pa.bool_()),
        pa.field("metrics", pa.string(), nullable=False),
        pa.field("doc_sha256", pa.string(), nullable=False),
        pa.field("item_cluster", pa.string()),
        pa.field("n_answer", pa.list_(pa.int32())),
    ]
)
"""One row per item of a task that a model was asked, and filter of lm-eval. Lists have an entry for
each answer, or each window of a long text; `prompt_ids` are of `run`, null for what was set aside.
`metrics`: a JSON object of the item's scores."""

VOCABULARY_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.int32(), nullable=False),
        pa.field("bytes", pa.binary()),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""One row per token of a tokenizer: the bytes that it stands for, and how people read it."""


WRITTEN_SCHEMA: Final = pa.schema(
    [
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),
    ]
)
"""One row per prompt of a block: the tokens that a model wrote after it, and ln p of each then."""


def encode_table(table: pa.Table, compression: str | None = "zstd") -> bytes:
    """An Arrow IPC file, one record batch per 64 Ki rows, with zeros under nulls."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        for batch in table.to_batches(max_chunksize=1 << 16):
            # Arrow writes what lies under a null as it finds it: memory of this process, in arrays
            # that were masked. `take` builds new buffers, with zeros there.
            writer.write_batch(batch.take(pa.array(np.arange(batch.num_rows))))
    return bytes(sink.getvalue())


def encode_texts(table: pa.Table) -> bytes:
    """The same of a table with strings of any length: without zstd where that packs them so well
    that readers would refuse to unpack them, as it does one text repeated a million times.
    """
    data = encode_table(table)
    try:
        check_declared(memoryview(data), rows=None)
    except ValueError:
        return encode_table(table, compression=None)
    return data


def read_table(
    path: Path, schema: pa.Schema, *, rows: int | None = None, extra: int | None = 0
) -> pa.Table:
    """The columns of `schema`, every row; others are ignored, absent optional ones null.

    rows: how many the record declares. extra: bytes that lists may take beyond `ROW_BYTES` a row;
    None: a row may hold text of any length, and the file's own size bounds what it unpacks to.
    FormatError(CORRUPT) for a file that is no such table, or that would unpack to more.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return table_of(source.read_buffer(), schema, rows=rows, extra=extra)
    except FileNotFoundError:  # its directory knows whether it was replaced
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _no_table(path, error) from None


def table_schema(path: Path) -> pa.Schema:
    """Every column that a table declares. FormatError(CORRUPT) for a file that is no table."""
    try:
        with pa.memory_map(str(path)) as source:
            check_declared(memoryview(source.read_buffer()), rows=None)
            with pa.ipc.open_file(source) as reader:
                return reader.schema
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _no_table(path, error) from None


def check_table(path: Path, *, rows: int | None = None) -> None:
    """FormatError(CORRUPT) where a table declares other rows, or would unpack to more than fits.

    Reads some hundred bytes: for a table that another library will read.
    """
    most = None if rows is None else _most(rows, 0)
    try:
        with pa.memory_map(str(path)) as source:
            check_declared(memoryview(source.read_buffer()), rows=rows, most=most)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _no_table(path, error) from None


def table_of(
    data: pa.Buffer, schema: pa.Schema, *, rows: int | None = None, extra: int | None = 0
) -> pa.Table:
    """`read_table` from bytes in memory; ValueError or ArrowException for other bytes.

    Unpacks the known columns alone, and checks that offsets of strings and lists stay inside.
    """
    most = None if rows is None or extra is None else _most(rows, extra)
    check_declared(memoryview(data), rows=rows, most=most)
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        stored = reader.schema
    wrong = [field.name for field in schema if not _fits(stored, field)]
    if wrong:
        raise ValueError(f"columns missing or not as declared: {', '.join(wrong)}")
    known = [i for i, name in enumerate(stored.names) if name in schema.names]
    options = pa.ipc.IpcReadOptions(included_fields=known)
    with pa.ipc.open_file(pa.BufferReader(data), options=options) as reader:
        table = reader.read_all()
    table.validate(full=True)
    for field in schema:
        if field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        elif not field.nullable and table[field.name].null_count:
            raise ValueError(f"column {field.name} has nulls")
    return table.select(schema.names)


def _no_table(path: Path, error: Exception) -> FormatError:
    return FormatError(
        f"{path}: not the table it should be ({error}). {ADVICE}", kind=ErrorKind.CORRUPT
    )


def _fits(stored: pa.Schema, field: pa.Field) -> bool:
    times = stored.names.count(field.name)
    if times == 0:
        return field.name in OPTIONAL_COLUMNS
    return times == 1 and bool(stored.field(field.name).equals(field))


def _most(rows: int, extra: int) -> int:
    return TABLE_BYTES + ROW_BYTES * rows + extra
