"""The target cache of DeepSpec, version 2.

`manifest.json` names layers and shards. `samples.idx` has a record for each sample: its number, its
shard, its tokens and where its five arrays begin in `shard-NNNNN.bin`: token ids (int32), attention
mask and loss mask (uint8), the states of all layers side by side and the last state (bfloat16).
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.store.exchange.files import Files
from lpp.store.exchange.foreign import Foreign, Stored, damaged
from lpp.store.exchange.manifest import read_manifest, write_manifest
from lpp.store.exchange.selection import Part, Selection

_VERSION: Final = 2

_ARRAYS: Final[tuple[tuple[str, np.dtype[Any]], ...]] = (
    ("input_ids", np.dtype("<i4")),
    ("attention_mask", np.dtype("u1")),
    ("loss_mask", np.dtype("u1")),
    ("target_hidden_states", np.dtype("<u2")),
    ("target_last_hidden_states", np.dtype("<u2")),
)
"""The arrays of a sample in their order, and their types; bfloat16 as its bits."""

_RECORD: Final = np.dtype(
    [
        *(("sample_id", "<u8"), ("shard_id", "<u4"), ("seq_len", "<u4")),
        *((f"{name}_offset", "<u8") for name, _ in _ARRAYS),
    ]
)
"""A record of the index, `<QIIQQQQQ`."""

_TYPES: Final = {"hidden_dtype": "bfloat16", "token_dtype": "int32", "mask_dtype": "uint8"}


def write_part(folder: Path, selection: Selection, part: Part) -> None:
    """A shard."""
    with (folder / _shard(_number(selection, part.first))).open("wb") as file:
        for _, ids, mask, states in part.samples():
            arrays = (ids, np.ones(len(ids)), mask, states[:, :-1], states[:, -1])
            for (_, dtype), values in zip(_ARRAYS, arrays, strict=True):
                file.write(np.ascontiguousarray(values, dtype).tobytes())


def write_index(folder: Path, selection: Selection) -> None:
    """`samples.idx` and the manifest."""
    lengths, bounds = selection.lengths, selection.bounds
    records = np.zeros(len(lengths), _RECORD)
    records["sample_id"] = np.arange(len(lengths))
    records["shard_id"] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    records["seq_len"] = lengths
    columns = (1, 1, 1, len(selection.layers) * selection.width, selection.width)
    sizes = [dtype.itemsize * k for (_, dtype), k in zip(_ARRAYS, columns, strict=True)]
    ends = np.append(0, np.cumsum(lengths * sum(sizes)))
    offset = ends[:-1] - np.repeat(ends[bounds[:-1]], np.diff(bounds))
    for (name, _), size in zip(_ARRAYS, sizes, strict=True):
        records[f"{name}_offset"] = offset
        offset = offset + lengths * size
    (folder / "samples.idx").write_bytes(records.tobytes())
    shards = range(len(bounds) - 1)
    document = {
        **{"version": _VERSION, "index_record_size": _RECORD.itemsize, **_TYPES},
        **{"num_samples": len(lengths), "num_shards": len(shards)},
        **{"target_layer_ids": list(selection.layers), "hidden_size": selection.width},
        "shards": [{"shard_id": k, "file_name": _shard(k)} for k in shards],
        "target_model_name_or_path": selection.run.plan.model.id,
    }
    write_manifest(folder, document)


def _number(selection: Selection, first: int) -> int:
    return int(np.searchsorted(selection.bounds, first))


def _shard(number: int) -> str:
    return f"shard-{number:05d}.bin"


def read(path: Path, _pad_id: int | None = None) -> Foreign:
    """A target cache."""
    manifest = read_manifest(path, version=_VERSION, index_record_size=_RECORD.itemsize, **_TYPES)
    try:
        count, width = int(manifest["num_samples"]), int(manifest["hidden_size"])
        layers = tuple(int(layer) for layer in manifest["target_layer_ids"])
        files = {int(shard["shard_id"]): shard["file_name"] for shard in manifest["shards"]}
        index = np.fromfile(path / "samples.idx", _RECORD)
    except (OSError, ValueError, KeyError, TypeError) as error:
        damaged(path / "manifest.json", f"lacks what a cache needs ({error!r})")
    if (path / "samples.idx").stat().st_size != count * _RECORD.itemsize:
        damaged(path / "samples.idx", f"{len(index)} records for {count} samples")
    widths = (1, 1, 1, len(layers) * width, width)

    @lru_cache(maxsize=4)
    def shard(number: int) -> npt.NDArray[np.uint8]:
        file = path / Path(str(files.get(number, f"shard {number} of no manifest"))).name
        try:
            return np.memmap(file, np.uint8, "r")
        except (OSError, ValueError) as error:
            damaged(file, f"cannot be read ({error})")

    def array(number: int, which: int) -> npt.NDArray[Any]:
        record = index[number]
        (name, dtype), columns = _ARRAYS[which], widths[which]
        data, length = shard(int(record["shard_id"])), int(record["seq_len"])
        start = int(record[f"{name}_offset"])
        end = start + length * columns * dtype.itemsize
        if end > len(data):
            file = path / files[int(record["shard_id"])]
            damaged(file, f"{name} of sample {number} ends at byte {end} of {len(data)}")
        values = np.frombuffer(data[start:end], dtype)
        return values if which < 3 else values.reshape(length, columns)

    def stored(number: int) -> Stored:
        file = path / files.get(int(index[number]["shard_id"]), "manifest.json")
        ids, mask = array(number, 0), array(number, 2)
        return Stored(file, number, ids, mask, (array(number, 3), array(number, 4)))

    return Foreign(
        count=count,
        stored=stored,
        n_states=len(layers) + 1,
        layers=layers,
        width=width,
        dtype="bfloat16",
        model=str(manifest.get("target_model_name_or_path") or ""),
    )


FILES: Final = Files(read=read, part=write_part, finish=write_index)
