"""Items of evaluations: read from beside their scores, and refused when they are not items."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from on_disk import on_disk

from lpp.store import add_scores, create_store
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.tables import ITEMS_SCHEMA, SCORES_SCHEMA, encode_table
from lpp.store.scores.items import items_file, logged_documents, read_items
from lpp.store.scores.scores import remove_scores, score_sets

ROW: dict[str, Any] = {
    "source": "eval t",
    "model": "m",
    "run": "m-1a2b3c4d",
    "task": "t",
    "item": 3,
    "filter": "none",
    "item_group": None,
    "prompt_ids": [5, None],
    "log_likelihoods": [-1.5, float("-inf")],
    "greedy": [True, False],
    "gold": 1,
    "chosen": 0,
    "correct": False,
    "metrics": "{}",
    "doc_sha256": "0" * 64,
}


def add(root: Path, files: dict[str, bytes]) -> None:
    score = {"model": "m", "benchmark": "t", "metric": "acc", "value": 0.5, "source": "eval t"}
    table = pa.Table.from_pylist([{**score, "kind": "lm-eval"}], schema=SCORES_SCHEMA)
    add_scores(root, "eval t", table, files, replace=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_store(tmp_path / "store")
    return tmp_path / "store"


def test_items_of_every_model_are_read_and_go_with_their_scores(root: Path) -> None:
    assert len(read_items(root)) == 0
    rows = [ROW, {**ROW, "model": "n", "item": 4, "run": None}]
    files = [items_file(pa.Table.from_pylist([row], schema=ITEMS_SCHEMA)) for row in rows]
    add(root, {"m/items.arrow": files[0], "n/items.arrow": files[1], "m/other.arrow": b"x"})
    rows = [{**row, **dict.fromkeys(("item_cluster", "n_answer"))} for row in rows]
    assert read_items(root).to_pylist() == rows
    add(root, {"m/items.arrow": files[0]})
    assert read_items(root).to_pylist() == rows[:1]
    remove_scores(root, "eval t")
    assert read_items(root).num_rows == 0


def test_a_table_with_other_columns_is_no_table_of_items(root: Path) -> None:
    other = pa.table({"item": [1]})
    with pytest.raises(ValueError, match="columns"):
        items_file(other)
    for data in (encode_table(other), b"no table", b""):
        add(root, {"m/items.arrow": data})
        with pytest.raises(FormatError, match=r"items\.arrow") as caught:
            read_items(root)
        assert caught.value.kind is ErrorKind.CORRUPT


@pytest.mark.parametrize(
    "lie",
    [
        {"prompt_ids": [5]},
        {"log_likelihoods": []},
        {"greedy": [True, False, True]},
        {"n_answer": [1]},
        {"gold": 2},
        {"gold": -1},
        {"chosen": 2},
        {"chosen": -1},
        {"item": 4},
    ],
)
def test_items_that_cannot_be_are_neither_written_nor_read(root: Path, lie: dict[str, Any]) -> None:
    rows = [{**ROW, "n_answer": [3, None], "item": 4}, {**ROW, "item": 5, "gold": None}]
    add(root, {"m/items.arrow": items_file(pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA))})
    assert len(read_items(root)) == 2
    table = pa.Table.from_pylist([rows[0], {**rows[1], **lie}], schema=ITEMS_SCHEMA)
    with pytest.raises(InputError, match="no items of an evaluation"):
        items_file(table)
    add(root, {"m/items.arrow": encode_table(table)})
    with pytest.raises(FormatError, match="no items of an evaluation") as caught:
        read_items(root)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_items_of_earlier_releases_have_neither_clusters_nor_lengths(root: Path) -> None:
    early = [name for name in ITEMS_SCHEMA.names if name not in ("item_cluster", "n_answer")]
    table = pa.Table.from_pylist([ROW], schema=ITEMS_SCHEMA).select(early)
    add(root, {"m/items.arrow": encode_table(table)})
    assert read_items(root).to_pylist() == [{**ROW, "item_cluster": None, "n_answer": None}]


def test_documents_are_in_the_log_of_the_evaluation(root: Path) -> None:
    items = items_file(pa.Table.from_pylist([ROW], schema=ITEMS_SCHEMA))
    lines = [{"doc_id": item, "doc": {"scene": item // 2}} for item in range(3)]
    log = "".join(json.dumps(line) + "\n" for line in lines).encode()
    told = {"configs": {"t": {"metadata": {"lpp": {"cluster": "scene"}}}, "u": {"metadata": None}}}
    files = {"m/items.arrow": items, "m/samples_t_2026.jsonl": log, "m/samples_u_2026.jsonl": b"{"}
    add(root, files)
    documents, declared = logged_documents(root, "eval t", "m", "t")
    assert ([documents[item]["scene"] for item in range(3)], declared) == ([0, 0, 1], None)
    add(root, {**files, "m/results_2026.json": json.dumps(told).encode()})
    assert logged_documents(root, "eval t", "m", "t")[1] == "scene"
    for broken in (b"{", b"[]\n", b'{"doc_id": 0}', b'{"doc_id": 0, "doc": 3}', b"[" * 100_000):
        add(root, {**files, "m/samples_t_2027.jsonl": broken})
        with pytest.raises(FormatError, match=r"samples_t_2027\.jsonl is no file of lm-eval"):
            logged_documents(root, "eval t", "m", "t")
    add(root, {**files, "m/results_2026.json": b"[]"})
    assert logged_documents(root, "eval t", "m", "t")[1] is None
    for source, model, task in (("eval t", "m", "u"), ("eval t", "n", "t"), ("other", "m", "t")):
        assert logged_documents(root, source, model, task) == ({}, None)


def test_an_altered_byte_is_found(root: Path) -> None:
    table = pa.Table.from_pylist([ROW], schema=ITEMS_SCHEMA)
    add(root, {"m/items.arrow": items_file(table)})
    (found,) = score_sets(root)
    (path,) = on_disk(found.path).rglob("items.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError):
        read_items(root)
