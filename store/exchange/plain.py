"""Layouts of our own, for programs that read safetensors or Parquet.

Files `part-00000` and on hold consecutive prompts end to end, one row for each token: `prompt_id`,
`position`, `token_id`, `loss_mask`, and the state at each site under the site's name.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.reader import to_float32
from lpp.store.errors import LppError
from lpp.store.exchange.foreign import Files, Foreign, Stored, check_file, damaged, not_there
from lpp.store.exchange.selection import Exported, PromptPart
from lpp.store.exchange.tensor_file import (
    DTYPES,
    FLOATS,
    Tensor,
    read_with_metadata,
    write_tensors,
)
from lpp.store.format.rows import positions

_COLUMNS: Final = {"prompt_id": "I64", "position": "I64", "token_id": "I64", "loss_mask": "BOOL"}

_DTYPE: Final = b"lpp.dtype"
"""Metadata of a column of Parquet: how its rows were stored. Parquet has no bfloat16, so that such
rows are written as the float32 of the same values."""

_MODEL: Final = "lpp.model"
"""Metadata of a file, as JSON: name, blocks and vocabulary of the model, and how many parts."""


_MOST_BYTES, _MOST_RATIO = 1 << 28, 64
"""Bytes that the rows of a Parquet file unpack to, at most, and for each of its bytes."""

_MOST_BLOCKS: Final = 100_000
"""Blocks of a model, at most."""


def write_safetensors(folder: Path, selection: Exported, part: PromptPart) -> None:
    """A file of safetensors."""
    tensors = {name: Tensor(_COLUMNS[name], values) for name, values in _tokens(part).items()}
    for site, values in part.rows.items():
        tensors[site] = Tensor(FLOATS[selection.dtypes[site]], values)
    path = folder / f"{_stem(selection, part)}.safetensors"
    write_tensors(path, tensors, {_MODEL: _model(selection)})


def write_parquet(folder: Path, selection: Exported, part: PromptPart) -> None:
    """A file of Parquet, of one row group."""
    import pyarrow.parquet as pq

    fields, arrays = [], []
    for name, values in _tokens(part).items():
        arrays.append(pa.array(values))
        fields.append(pa.field(name, arrays[-1].type))
    for site, rows in part.rows.items():
        dtype = selection.dtypes[site]
        values = to_float32(rows) if dtype == "bfloat16" else rows
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, rows.shape[1]))
        fields.append(pa.field(site, arrays[-1].type, metadata={_DTYPE: dtype.encode()}))
    table = pa.table(arrays, schema=pa.schema(fields, {_MODEL: _model(selection)}))
    pq.write_table(
        table,
        folder / f"{_stem(selection, part)}.parquet",
        compression="zstd",
        use_dictionary=False,
        row_group_size=max(1, table.num_rows),
    )


def _model(selection: Exported) -> str:
    model = selection.run.plan.model
    facts = {"model": model.id, "n_blocks": model.n_blocks, "vocabulary": model.logits_width}
    return json.dumps({**facts, "parts": len(selection.bounds) - 1})


def _tokens(part: PromptPart) -> dict[str, npt.NDArray[Any]]:
    lengths = np.diff(part.edges)
    return {
        "prompt_id": np.repeat(part.prompt_ids, lengths),
        "position": positions(lengths),
        "token_id": part.token_ids.astype(np.int64),
        "loss_mask": part.loss_mask,
    }


def _stem(selection: Exported, part: PromptPart) -> str:
    return f"part-{int(np.searchsorted(selection.bounds, part.first)):05d}"


def read_safetensors(path: Path) -> Foreign:
    """A folder of `write_safetensors`."""
    return _read(path, "safetensors", read_with_metadata)


def read_parquet(path: Path) -> Foreign:
    """A folder of `write_parquet`."""
    return _read(path, "parquet", _parquet)


def _parquet(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    import pyarrow.parquet as pq

    check_file(path)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            widths = [field.type.list_size for field in schema if _is_rows(field.type)]
            unpacked = file.metadata.num_rows * 4 * sum(widths)
            if unpacked > _MOST_BYTES + _MOST_RATIO * path.stat().st_size:
                damaged(path, f"its rows unpack to {unpacked} bytes")
            table = file.read()
    except (OSError, ArithmeticError, ValueError) as error:  # pyarrow's own are ValueErrors
        if isinstance(error, LppError):
            raise
        damaged(path, f"cannot be read as Parquet ({error})")
    tensors = {
        field.name: _column(path, field, column.combine_chunks())
        for field, column in zip(table.schema, table.columns, strict=True)
    }
    if len(tensors) < len(table.columns):
        damaged(path, "a column is there twice")
    model = (table.schema.metadata or {}).get(_MODEL.encode(), b"{}")
    return tensors, {_MODEL: model.decode(errors="replace")}


def _is_rows(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind)) and kind.list_size > 0


def _column(path: Path, field: pa.Field, values: pa.Array) -> Tensor:
    """A column of tokens, or the rows of a site. FormatError for one of another type."""
    if field.name in _COLUMNS:
        expected = pa.bool_() if _COLUMNS[field.name] == "BOOL" else pa.int64()
        if field.type != expected or values.null_count:
            damaged(path, f"{field.name} is {field.type}, {values.null_count} null")
        return Tensor(_COLUMNS[field.name], values.to_numpy(zero_copy_only=False))
    dtype = (field.metadata or {}).get(_DTYPE, b"float32").decode(errors="replace")
    inner = pa.float16() if dtype == "float16" else pa.float32()
    if dtype not in FLOATS or not _is_rows(field.type) or field.type.value_type != inner:
        damaged(path, f"{field.name} is {field.type} of {dtype}, which are no rows")
    flat = values.flatten()
    if values.null_count or flat.null_count:
        damaged(path, f"{field.name} has nulls")
    rows = flat.to_numpy().reshape(len(values), field.type.list_size)
    if dtype == "bfloat16":
        bits = rows.view(np.uint32)
        if (bits & 0xFFFF).any():
            damaged(path, f"{field.name} has values that bfloat16 has not")
        rows = (bits >> 16).astype(np.uint16)
    return Tensor(FLOATS[dtype], rows)


def _read(
    path: Path,
    ending: str,
    opened: Callable[[Path], tuple[Mapping[str, Tensor], Mapping[str, str]]],
) -> Foreign:
    files = sorted(path.glob(f"part-*.{ending}")) if path.is_dir() else []
    if not files:
        not_there(path, f"no part-00000.{ending} here")

    @lru_cache(maxsize=2)
    def part(
        file: Path,
    ) -> tuple[Mapping[str, Tensor], npt.NDArray[np.int64], Mapping[str, str]]:
        tensors, texts = opened(file)
        if missing := [name for name in _COLUMNS if name not in tensors]:
            damaged(file, f"no column {', '.join(missing)}")
        count = tensors["position"].values.size
        for name, tensor in tensors.items():
            kinds, ndim = ({_COLUMNS[name]}, 1) if name in _COLUMNS else ({*DTYPES}, 2)
            shape = tensor.values.shape
            if tensor.kind not in kinds or len(shape) != ndim or shape[0] != count or 0 in shape:
                damaged(file, f"{name} is {tensor.kind} {shape} for {count} tokens")
        starts = np.flatnonzero(tensors["position"].values == 0)
        edges = np.append(starts, count)
        ids = tensors["prompt_id"].values
        if not np.array_equal(tensors["position"].values, positions(np.diff(edges))) or not (
            np.array_equal(ids, np.repeat(ids[starts], np.diff(edges)))
        ):
            damaged(file, "positions do not count the tokens of each prompt from 0")
        return tensors, edges, texts

    tensors, _, texts = part(files[0])
    first = {name: tensor for name, tensor in tensors.items() if name not in _COLUMNS}
    if not first:
        damaged(files[0], "no states of a site")
    model, n_blocks, vocabulary, parts = _facts(files[0], texts)
    if len(files) != (parts or len(files)):
        damaged(path, f"{len(files)} files of {parts}")
    places = [(file, k) for file in files for k in range(len(part(file)[1]) - 1)]

    def stored(place: int) -> Stored:
        file, k = places[place]
        tensors, edges, _ = part(file)
        sites = {name: t.kind for name, t in tensors.items() if name not in _COLUMNS}
        if sites != {name: t.kind for name, t in first.items()}:
            damaged(file, f"sites are not those of {files[0].name}")
        tokens = slice(*edges[k : k + 2])
        ids, mask = (tensors[name].values[tokens] for name in ("token_id", "loss_mask"))
        number = int(tensors["prompt_id"].values[tokens.start])
        return Stored(file, number, ids, mask, tuple(tensors[s].values[tokens] for s in first))

    return Foreign(
        count=len(places),
        stored=stored,
        states=tuple((t.values.shape[-1], DTYPES[t.kind]) for t in first.values()),
        sites=tuple(first),
        model=model,
        n_blocks=n_blocks,
        vocabulary=vocabulary,
    )


def _facts(file: Path, texts: Mapping[str, str]) -> tuple[str, int, int, int]:
    """The model's name, blocks and vocabulary, and the number of parts; 0 where a file says none.

    FormatError for other types, and for numbers that no model has: memory is taken by them later.
    """
    try:
        facts = json.loads(texts.get(_MODEL, "{}"))
        model = facts.get("model", "")
        numbers = [facts.get(name, 0) for name in ("n_blocks", "vocabulary", "parts")]
    except (ValueError, AttributeError, RecursionError) as error:
        damaged(file, f"{_MODEL} is no JSON ({error})")
    most = (_MOST_BLOCKS, 1 << 31, 1 << 31)
    fits = all(type(n) is int and 0 <= n <= top for n, top in zip(numbers, most, strict=True))
    if not isinstance(model, str) or not fits:
        damaged(file, f"{_MODEL} is {str(facts)[:200]}")
    return model, numbers[0], numbers[1], numbers[2]


SAFETENSORS: Final = Files(read=read_safetensors, part=write_safetensors)
PARQUET: Final = Files(read=read_parquet, part=write_parquet)
