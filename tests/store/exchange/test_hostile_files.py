"""`lpp-capture import` of crafted files: one message, exit code 2, and nothing is written."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from exchanged import WIDTH, write_run

from lpp.capture.cli.command import main
from lpp.store.exchange.export import export
from lpp.store.exchange.projects import EXPORTED

HOSTILE: dict[str, tuple[str, Callable[[Path], object]]] = {}
"""By name: the project, and what is done to a copy of a good export."""

FIRST: Final = {
    "safetensors": "part-00000.safetensors",
    "parquet": "part-00000.parquet",
    "speculators": "hidden_states/hs_1.safetensors",
}

OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "speculators": ("--model", "m", "--layers", "0,1,2,3,4,5,6")
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    run = write_run(folder / "store")
    for name in EXPORTED:
        export(run, name, folder / name)
    return {name: folder / name for name in EXPORTED}


def _first(name: str, do: Callable[[Path], object], folder: Path) -> object:
    return do(folder / name)


def _data_set(columns: Sequence[Any], folder: Path) -> None:
    data_set(folder, *columns)


def hostile(*projects: str) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Do this to the first file of each project."""

    def added(do: Callable[[Path], object]) -> Callable[[Path], object]:
        for name in projects:
            HOSTILE[f"{name} {do.__name__}"] = name, partial(_first, FIRST[name], do)
        return do

    return added


# --- a file that is none ---


@hostile(*FIRST)
def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@hostile(*FIRST)
def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@hostile(*FIRST)
def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@hostile(*FIRST)
def broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@hostile(*FIRST)
def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@hostile(*FIRST)
def empty(path: Path) -> None:
    path.write_bytes(b"")


@hostile(*FIRST)
def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# --- headers of safetensors ---

TENSORS: Final = ("safetensors", "speculators")


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def states_in(header: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of states, of either layout."""
    return dict(header.get("block.2") or header["hidden_states"])


@hostile(*TENSORS)
def header_of_2_to_the_60(path: Path) -> None:
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])


HEADERS: Mapping[str, object] = {
    "list": [],
    "text": "x",
    "null": None,
    "no JSON": b"{",
    "no UTF-8": b'{"a": "\xff"}',
    "nested": b"[" * 100_000,
    "number": b"1" * 10_000,
    "entry that is a list": {"x": []},
    "metadata that is a list": {"__metadata__": [1]},
}
ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "dtype": {"dtype": "F64"},
    "dtype that is a list": {"dtype": ["F32"]},
    "no dimensions": {"shape": []},
    "one dimension": {"shape": [-1]},
    "negative": {"shape": [-58, -8]},
    "huge": {"shape": [1 << 70, 0], "data_offsets": [0, 0]},
    "infinite": {"shape": [float("inf")]},
    "texts": {"shape": ["1", "2"]},
    "offsets before the data": {"data_offsets": [-64, 0]},
    "offsets that turn round": {"data_offsets": [64, 0]},
    "one offset": {"data_offsets": [0]},
    "offsets beyond": {"shape": [1 << 40, 8], "data_offsets": [0, 1 << 44]},
    "no rows": {"shape": [0, 8], "data_offsets": [0, 0]},
    "no columns": {"shape": [58, 0], "data_offsets": [0, 0]},
    "no layers": {"shape": [12, 0, 8], "data_offsets": [0, 0]},
}


def _headers() -> None:
    for project in TENSORS:
        for name, header in HEADERS.items():

            def whole(folder: Path, header: object = header, project: str = project) -> None:
                path = folder / FIRST[project]
                with_header(path, header, header_of(path)[1])

            HOSTILE[f"{project} header: {name}"] = project, whole
        for name, change in ENTRIES.items():

            def entry(folder: Path, change: Any = change, project: str = project) -> None:
                path = folder / FIRST[project]
                header, data = header_of(path)
                place = "block.2" if "block.2" in header else "hidden_states"
                with_header(path, header | {place: states_in(header) | change}, data)

            HOSTILE[f"{project} states: {name}"] = project, entry


_headers()


@hostile(*TENSORS)
def one_name_twice(path: Path) -> None:
    header, data = header_of(path)
    text = json.dumps(header).encode()
    name = b'"block.2"' if b'"block.2"' in text else b'"hidden_states"'
    with_header(path, b"{" + name + b': {"dtype": "F32"}, ' + text[1:], data)


@hostile("safetensors")
def tensors_over_each_other(path: Path) -> None:
    """A small file that holds a large run."""
    header, data = header_of(path)
    with_header(path, header | {f"x.{k}": states_in(header) for k in range(50)}, data)


@hostile("safetensors")
def tokens_of_another_type(path: Path) -> None:
    header, data = header_of(path)
    (start, _), count = header["token_id"]["data_offsets"], header["token_id"]["shape"][0]
    entry = {"dtype": "F32", "shape": [count], "data_offsets": [start, start + 4 * count]}
    with_header(path, header | {"token_id": entry}, data)


@hostile("safetensors")
def columns_of_tokens(path: Path) -> None:
    header, data = header_of(path)
    entry = header["position"]
    with_header(path, header | {"position": entry | {"shape": [*entry["shape"], 1]}}, data)


@hostile("safetensors")
def positions_out_of_order(path: Path) -> None:
    header, data = header_of(path)
    start, end = header["position"]["data_offsets"]
    changed = np.frombuffer(data[start:end], "<i8").copy()
    changed[3] = 9
    with_header(path, header, data[:start] + changed.tobytes() + data[end:])


@hostile("safetensors")
def ids_out_of_range(path: Path) -> None:
    header, data = header_of(path)
    start, end = header["token_id"]["data_offsets"]
    with_header(path, header, data[:start] + b"\xff" * (end - start) + data[end:])


FACTS: Mapping[str, object] = {
    "blocks that no model has": {"model": "m", "n_blocks": 10**12},
    "blocks that are a text": {"model": "m", "n_blocks": "six"},
    "infinite blocks": {"model": "m", "n_blocks": float("inf")},
    "negative blocks": {"model": "m", "n_blocks": -6},
    "fewer blocks than sites": {"model": "m", "n_blocks": 1.5},
    "a vocabulary that is a list": {"model": "m", "n_blocks": 6, "vocabulary": [1]},
    "a model that is a list": {"model": ["m"], "n_blocks": 6},
    "a list": [],
}


def _facts() -> None:
    for name, facts in FACTS.items():

        def safetensors(folder: Path, facts: object = facts) -> None:
            header, data = header_of(folder / FIRST["safetensors"])
            header["__metadata__"] = {"lpp.model": json.dumps(facts)}
            with_header(folder / FIRST["safetensors"], header, data)

        def parquet(folder: Path, facts: object = facts) -> None:
            table = pq.read_table(folder / FIRST["parquet"])
            table = table.replace_schema_metadata({"lpp.model": json.dumps(facts)})
            pq.write_table(table, folder / FIRST["parquet"])

        HOSTILE[f"safetensors {name}"] = "safetensors", safetensors
        HOSTILE[f"parquet {name}"] = "parquet", parquet


_facts()

# --- Parquet ---


def columns(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        pq.write_table(change(pq.read_table(path)), path)

    return changed


def replaced(table: pa.Table, name: str, values: pa.Array, metadata: Any = None) -> pa.Table:
    field = pa.field(name, values.type, metadata=metadata)
    return table.set_column(table.column_names.index(name), field, values)


def rows(table: pa.Table, inner: pa.DataType, *, null: bool = False) -> pa.Array:
    flat = pa.array(np.zeros(table.num_rows * WIDTH), inner)
    if null:
        flat = pa.concat_arrays([pa.nulls(1, inner), flat[1:]])
    return pa.FixedSizeListArray.from_arrays(flat, WIDTH)


def of(dtype: str) -> dict[bytes, bytes]:
    return {b"lpp.dtype": dtype.encode()}


PARQUET: Mapping[str, Callable[[pa.Table], pa.Table]] = {
    "null row": lambda t: replaced(
        t, "block.2", pa.array([None] + [[0.0] * WIDTH] * (len(t) - 1), pa.list_(pa.float32(), 8))
    ),
    "null in a row": lambda t: replaced(t, "block.2", rows(t, pa.float32(), null=True)),
    "null token": lambda t: replaced(
        t, "token_id", pa.array([None, *range(len(t) - 1)], pa.int64())
    ),
    "null position": lambda t: replaced(t, "position", pa.nulls(len(t), pa.int64())),
    "lists of other lengths": lambda t: replaced(
        t, "block.2", pa.array([[0.0] * (k % 3) for k in range(len(t))], pa.list_(pa.float32()))
    ),
    "doubles": lambda t: replaced(t, "block.2", rows(t, pa.float64()), of("float32")),
    "doubles as bfloat16": lambda t: replaced(t, "block.2", rows(t, pa.float64()), of("bfloat16")),
    "whole numbers": lambda t: replaced(t, "block.2", rows(t, pa.int32())),
    "no bfloat16": lambda t: replaced(
        t,
        "block.2",
        pa.FixedSizeListArray.from_arrays(pa.array(np.full(len(t) * WIDTH, 0.1, np.float32)), 8),
        of("bfloat16"),
    ),
    "unknown dtype": lambda t: replaced(t, "block.2", rows(t, pa.float32()), of("float8")),
    "dtype of no text": lambda t: replaced(
        t, "block.2", rows(t, pa.float32()), {b"lpp.dtype": b"\xff"}
    ),
    "texts": lambda t: replaced(t, "token_id", pa.array(["x"] * len(t))),
    "numbers for a mask": lambda t: replaced(t, "loss_mask", pa.array([2.5] * len(t))),
    "lists of lists": lambda t: replaced(
        t, "block.2", pa.array([[[0.0]] * 8] * len(t), pa.list_(pa.list_(pa.float32()), 8))
    ),
    "structs": lambda t: replaced(t, "block.2", pa.array([{"a": 1.0}] * len(t))),
    "no rows": lambda t: t[:0],
    "no site": lambda t: t.select(["prompt_id", "position", "token_id", "loss_mask"]),
    "no mask": lambda t: t.drop_columns(["loss_mask"]),
    "no first token": lambda t: t[1:],
    "a prompt in the middle": lambda t: pa.concat_tables([t[:3], t[4:]]),
}
for _name, _change in PARQUET.items():
    HOSTILE[f"parquet {_name}"] = (
        "parquet",
        partial(_first, FIRST["parquet"], columns(_change)),
    )


@hostile("parquet")
def small_file_of_many_rows(path: Path) -> None:
    """Some kilobytes that unpack to some gigabytes."""
    count = 40_000
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * 8192, np.float32)), 8192)
    table = {
        **dict.fromkeys(("prompt_id", "position", "token_id"), np.arange(count)),
        "loss_mask": np.ones(count, bool),
        "x": zeros,
    }
    pq.write_table(pa.table(table), path, compression="zstd")


# --- folders of speculators ---


def speculators(name: str) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    def added(do: Callable[[Path], object]) -> Callable[[Path], object]:
        HOSTILE[f"speculators {name}"] = "speculators", do
        return do

    return added


@speculators("shapes that differ")
def _shapes(folder: Path) -> None:
    header, data = header_of(folder / FIRST["speculators"])
    entry = states_in(header)
    n, k, d = entry["shape"]
    header["hidden_states"] = entry | {"shape": [n, d, k]}
    with_header(folder / FIRST["speculators"], header, data)


@speculators("rows for other tokens")
def _tokens(folder: Path) -> None:
    shutil.copy(folder / "hidden_states/hs_3.safetensors", folder / FIRST["speculators"])


@speculators("a number beyond 64 bits")
def _number(folder: Path) -> None:
    (folder / "state.json").unlink()
    files = folder / "hidden_states"
    (files / "hs_1.safetensors").rename(files / f"hs_{'9' * 30}.safetensors")


for _key, _text in {
    "no JSON": "{",
    "nested": "[" * 100_000,
    "a list": "[]",
    "files that are numbers": '{"_data_files": [{"filename": 1}]}',
    "files elsewhere": '{"_data_files": [{"filename": "../../etc/passwd"}]}',
    "no files": "{}",
}.items():
    HOSTILE[f"speculators state: {_key}"] = (
        "speculators",
        partial(_first, "state.json", partial(Path.write_text, data=_text)),
    )


@speculators("a data set that is a pipe")
def _data_pipe(folder: Path) -> None:
    (folder / "data-00000-of-00001.arrow").unlink()
    os.mkfifo(folder / "data-00000-of-00001.arrow")


def data_set(folder: Path, ids: list[Any], mask: list[Any], inner: pa.DataType) -> None:
    table = pa.table(
        {"input_ids": pa.array(ids, pa.list_(inner)), "loss_mask": pa.array(mask, pa.list_(inner))}
    )
    path = folder / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


DATA: Mapping[str, tuple[list[Any], list[Any], pa.DataType]] = {
    "nulls": ([None] * 6, [None] * 6, pa.int64()),
    "nulls in lists": ([[None]] * 6, [[1]] * 6, pa.int64()),
    "ids beyond": ([[1 << 40]] * 6, [[1]] * 6, pa.int64()),
    "texts": ([["a"]] * 6, [["b"]] * 6, pa.string()),
    "fewer rows": ([[1]], [[1]], pa.int64()),
}
for _key, _columns in DATA.items():
    HOSTILE[f"speculators data set: {_key}"] = (
        "speculators",
        partial(_data_set, _columns),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_crafted_file_is_one_message_and_nothing_is_written(
    name: str, exported: Mapping[str, Path], tmp_path: Path
) -> None:
    project, do = HOSTILE[name]
    folder = shutil.copytree(exported[project], tmp_path / "f")
    do(folder)
    words = ["import", str(folder), "--from", project, "--store", str(tmp_path / "s")]
    done = CliRunner().invoke(main, [*words, *OPTIONS.get(project, ())])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.count("Error") == 1
    assert "bug" not in done.stderr
    assert str(folder) in done.stderr.replace("\n", "") or "prompts" in done.stderr
    assert not (tmp_path / "s").exists()
