"""Files of speculators: a data set that Hugging Face's `save_to_disk` writes, and a file of
safetensors for each sample; and such files alone, as a connector of vLLM writes them.

`hidden_states/hs_{i}.safetensors` belongs to row i of the data set: `token_ids` (n,) and
`hidden_states` (n, layers + 1, d).
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.exchange.foreign import Files, Foreign, Stored, check_file, damaged, not_there
from lpp.store.exchange.selection import Exported, PromptPart
from lpp.store.exchange.tensor_file import DTYPES, FLOATS, Tensor, read_tensors, write_tensors

_FILE: Final = re.compile(r"hs_([0-9]+)\.safetensors")

_DATA: Final = "data-00000-of-00001.arrow"

_SCHEMA: Final = pa.schema(
    {"input_ids": pa.list_(pa.int64()), "loss_mask": pa.list_(pa.int64()), "seq_len": pa.int64()}
)

_BATCH: Final = 1000
"""Rows of the data set that are in memory at a time."""


def write_part(folder: Path, selection: Exported, part: PromptPart) -> None:
    """The file of each prompt."""
    (folder / "hidden_states").mkdir(exist_ok=True)
    kind = FLOATS[selection.dtype]
    for number, ids, _, states in part.samples():
        tensors = {"hidden_states": Tensor(kind, states), "token_ids": Tensor("I64", ids)}
        write_tensors(folder / "hidden_states" / f"hs_{number}.safetensors", tensors)


def write_data_set(folder: Path, selection: Exported) -> None:
    """The data set: token ids and loss masks, as tensors of torch when it is read."""
    count = len(selection.prompt_ids)
    with pa.OSFile(str(folder / _DATA), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
        for start in range(0, count, _BATCH):
            end = min(start + _BATCH, count)
            ids, mask = selection.tokens(start, end)
            lengths = selection.lengths[start:end]
            edges = pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32))
            lists = [
                pa.ListArray.from_arrays(edges, pa.array(values.astype(np.int64)))
                for values in (ids, mask)
            ]
            stream.write_batch(pa.record_batch([*lists, pa.array(lengths)], schema=_SCHEMA))
    listed = {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "Sequence"}
    features = {
        "input_ids": listed,
        "loss_mask": listed,
        "seq_len": {"dtype": "int64", "_type": "Value"},
    }
    state: dict[str, object] = {
        "_data_files": [{"filename": _DATA}],
        "_fingerprint": selection.run.plan.hash[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": "torch",
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}), "utf-8")
    (folder / "state.json").write_text(json.dumps(state, indent=2), "utf-8")


def read(path: Path) -> Foreign:
    """A data set with `hidden_states/`, or a folder of `hs_{i}.safetensors` alone, whose samples
    then have no loss mask. Rows of the data set without a file are left out.
    """
    folder = path / "hidden_states" if (path / "hidden_states").is_dir() else path
    names = (_FILE.fullmatch(entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
    numbers = sorted(int(name[1]) for name in names if name)
    if not numbers:
        not_there(path, "no hidden_states/hs_{i}.safetensors here")
    if len({*numbers}) < len(numbers) or numbers[-1] >= 1 << 63:
        damaged(folder, f"hs_{numbers[-1]}.safetensors is of no row, or two files are of one row")
    rows = []
    if (path / "state.json").is_file():
        rows = [(ids, mask) for ids, mask in saved_rows(path, "input_ids", "loss_mask")]
        if numbers[-1] >= len(rows):
            damaged(path, f"hs_{numbers[-1]}.safetensors, and a data set of {len(rows)} rows")
    files = [(number, folder / f"hs_{number}.safetensors") for number in numbers]
    return _opened(files, rows)


def read_requests(path: Path) -> Foreign:
    """A folder that vLLM's ExampleHiddenStatesConnector filled: a file a request, by name."""
    by_number = [(re.split(r"(\d+)", file.name), file) for file in path.glob("*.safetensors")]
    numbered = [([int(p) if p.isdecimal() else p for p in parts], f) for parts, f in by_number]
    names = [file for _, file in sorted(numbered)]
    return _opened([*enumerate(names)] or not_there(path, "no .safetensors here"), [])


def _opened(files: Sequence[tuple[int, Path]], rows: Sequence[tuple[Any, Any]]) -> Foreign:
    """The samples of numbered files; rows: of the data set, token ids and loss mask by number."""
    first = _tensors(files[0][1])["hidden_states"]
    if first.kind not in DTYPES:
        damaged(files[0][1], f"states of {first.kind}, which are not exact; bfloat16 can be taken")

    def stored(place: int) -> Stored:
        number, file = files[place]
        tensors = _tensors(file)
        states, ids = tensors["hidden_states"], tensors["token_ids"].values
        if states.kind != first.kind:
            damaged(file, f"states of {states.kind}, other files have {first.kind}")
        row = rows[number] if rows else (ids, None)
        if not np.array_equal(row[0], ids):
            damaged(file, f"token ids are not those of row {number} of the data set")
        return Stored(file, number, ids, row[1], tuple(states.values.swapaxes(0, 1)))

    return Foreign(
        count=len(files),
        left_out=max(0, len(rows) - len(files)),
        stored=stored,
        states=((first.values.shape[2], DTYPES[first.kind]),) * first.values.shape[1],
    )


def saved_rows(folder: Path, *columns: str) -> Iterator[tuple[npt.NDArray[np.int32], ...]]:
    """These lists of each row of a data set of `save_to_disk`. FormatError for one that lacks them
    or cannot be read.
    """
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        for entry in state["_data_files"]:
            path = folder / Path(entry["filename"]).name
            check_file(path)
            with pa.memory_map(str(path)) as file:
                for batch in pa.ipc.open_stream(file):
                    lists = (batch[name].to_pylist() for name in columns)
                    for row in zip(*lists, strict=True):
                        yield tuple(np.array(values, np.int32) for values in row)
    except (
        OSError,
        ArithmeticError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        pa.ArrowException,
    ) as error:
        damaged(folder, f"no data set of save_to_disk with {' and '.join(columns)} ({error})")


def _tensors(path: Path) -> dict[str, Tensor]:
    """Those of a file. FormatError if it lacks one."""
    tensors = read_tensors(path)
    if missing := {"hidden_states", "token_ids"} - tensors.keys():
        damaged(path, f"no tensor {', '.join(sorted(missing))}")
    shape = tensors["hidden_states"].values.shape
    if len(shape) != 3 or 0 in shape:
        damaged(path, f"hidden_states of {shape}")
    return tensors


FILES: Final = Files(read=read, part=write_part, finish=write_data_set)

REQUESTS: Final = Files(read=read_requests)
