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
from lpp.store.exchange.files import Files
from lpp.store.exchange.foreign import Foreign, Stored, damaged, not_there
from lpp.store.exchange.selection import Part, Selection
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


def write_safetensors(folder: Path, selection: Selection, part: Part) -> None:
    """A file of safetensors."""
    tensors = {name: Tensor(_COLUMNS[name], values) for name, values in _tokens(part).items()}
    for site, values in part.rows.items():
        tensors[site] = Tensor(FLOATS[selection.dtypes[site]], values)
    path = folder / f"{_stem(selection, part)}.safetensors"
    write_tensors(path, tensors, {_MODEL: _model(selection)})


def write_parquet(folder: Path, selection: Selection, part: Part) -> None:
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


def _model(selection: Selection) -> str:
    model = selection.run.plan.model
    facts = {"model": model.id, "n_blocks": model.n_blocks, "vocabulary": model.logits_width}
    return json.dumps({**facts, "parts": len(selection.bounds) - 1})


def _tokens(part: Part) -> dict[str, npt.NDArray[Any]]:
    lengths = np.diff(part.edges)
    return {
        "prompt_id": np.repeat(part.prompt_ids, lengths),
        "position": positions(lengths),
        "token_id": part.token_ids.astype(np.int64),
        "loss_mask": part.loss_mask,
    }


def _stem(selection: Selection, part: Part) -> str:
    return f"part-{int(np.searchsorted(selection.bounds, part.first)):05d}"


def read_safetensors(path: Path) -> Foreign:
    """A folder of `write_safetensors`."""
    return _read(path, "safetensors", read_with_metadata)


def read_parquet(path: Path) -> Foreign:
    """A folder of `write_parquet`."""
    return _read(path, "parquet", _parquet)


def _parquet(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        damaged(path, f"cannot be read as Parquet ({error})")
    tensors = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        values = column.combine_chunks()
        if pa.types.is_fixed_size_list(field.type):
            dtype = (field.metadata or {}).get(_DTYPE, b"float32").decode()
            rows = values.flatten().to_numpy().reshape(len(values), field.type.list_size)
            if dtype == "bfloat16":
                rows = (rows.view(np.uint32) >> 16).astype(np.uint16)
            tensors[field.name] = Tensor(FLOATS.get(dtype, dtype), rows)
        elif field.name in _COLUMNS:
            flat = values.to_numpy(zero_copy_only=False)
            tensors[field.name] = Tensor(_COLUMNS[field.name], flat)
    metadata = table.schema.metadata or {}
    return tensors, {_MODEL: metadata.get(_MODEL.encode(), b"{}").decode()}


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
        lengths = {len(tensor.values) for tensor in tensors.values()}
        starts = np.flatnonzero(tensors["position"].values == 0)
        if len(lengths) != 1 or not len(starts) or starts[0]:
            damaged(file, "columns of several lengths, or no first token of a prompt")
        return tensors, np.append(starts, lengths.pop()), texts

    tensors, _, texts = part(files[0])
    first = {name: tensor for name, tensor in tensors.items() if name not in _COLUMNS}
    kinds = {tensor.kind for tensor in first.values()}
    if not kinds or not kinds <= {*DTYPES}:
        damaged(files[0], f"states of {', '.join(sorted(kinds)) or 'no site'}")
    try:
        facts = json.loads(texts.get(_MODEL, "{}"))
        model, n_blocks, vocabulary = (
            facts.get("model", ""),
            facts.get("n_blocks", 0),
            facts.get("vocabulary", 0),
        )
        if len(files) != facts.get("parts", len(files)):
            damaged(path, f"{len(files)} files of {facts['parts']}")
    except (ValueError, AttributeError) as error:
        damaged(files[0], f"{_MODEL} is no JSON ({error})")
    places = [(file, k) for file in files for k in range(len(part(file)[1]) - 1)]

    def stored(place: int) -> Stored:
        file, k = places[place]
        tensors, edges, _ = part(file)
        if missing := [site for site in first if site not in tensors]:
            damaged(file, f"no states of {', '.join(missing)}")
        tokens = slice(*edges[k : k + 2])
        ids, mask = (tensors[name].values[tokens] for name in ("token_id", "loss_mask"))
        number = int(tensors["prompt_id"].values[tokens.start])
        return Stored(file, number, ids, mask, tuple(tensors[s].values[tokens] for s in first))

    return Foreign(
        count=len(places),
        stored=stored,
        states=tuple((t.values.shape[-1], DTYPES[t.kind]) for t in first.values()),
        sites=tuple(first),
        model=str(model),
        n_blocks=int(n_blocks),
        vocabulary=int(vocabulary),
    )


SAFETENSORS: Final = Files(read=read_safetensors, part=write_safetensors)
PARQUET: Final = Files(read=read_parquet, part=write_parquet)
