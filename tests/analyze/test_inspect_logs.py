"""Logs of inspect_ai, which reads them: both formats alike, and what is no finished log is refused.
`make test-collectors` has an environment with it.

The logs in `inspect_logs` are real ones; `make.py` beside them says how they were made.
"""

import json
import math
import zipfile
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.analyze.scores.inspect_log import open_inspect_log
from lpp.analyze.scores.read_inspect import (
    model_of,
    read_inspect,
    read_inspect_items,
    value_of,
)
from lpp.store import read_scores
from lpp.store.errors import ErrorKind, InputError

LOGS = Path(__file__).parent / "inspect_logs"
HEADER = "header.json"


def document(**changes: Any) -> dict[str, Any]:
    """The log `planets.json`, its samples in the data set's order, changed."""
    found: dict[str, Any] = json.loads((LOGS / "planets.json").read_bytes())
    order = found["eval"]["dataset"]["sample_ids"]
    found["samples"].sort(key=lambda sample: order.index(sample["id"]))
    return {**found, **changes}


def written(path: Path, log: object) -> Path:
    path.write_text(json.dumps(log, indent=2))
    return path


def members(path: Path) -> dict[str, bytes]:
    """Every member of a `.eval` log, each unpacked with Arrow, in place of the code under test."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        data = path.read_bytes()
        for info in archive.infolist():
            start = info.header_offset
            sizes = [int.from_bytes(data[start + k : start + k + 2], "little") for k in (26, 28)]
            packed = data[start + 30 + sum(sizes) :][: info.compress_size]
            with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
                found[info.filename] = stream.read()
    return found


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    """A `.eval` log as earlier releases packed it, with deflate."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_each_scorer_is_a_metric_and_a_filter() -> None:
    log = open_inspect_log(LOGS / "sums.eval", "log")
    assert read_inspect(log).select("metric", "value", "stderr").rows() == [
        ("accuracy,match", 0.5, 0.5),
        ("accuracy,match1", 1.0, 0.0),
    ]
    assert read_inspect(log, lambda task: task != "sums").is_empty()
    rows = read_inspect_items(log).to_dicts()
    assert [(row["filter"], row["item"], row["correct"]) for row in rows] == [
        ("match", 0, True),
        ("match", 1, False),
        ("match1", 0, True),
        ("match1", 1, True),
    ]
    assert {(row["gold"], row["chosen"]) for row in rows} == {(None, None)}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"model": "hf/Qwen/Qwen2.5-3B"}, "Qwen/Qwen2.5-3B"),
        ({"model": "openai/gpt-4o", "model_args": {"model_path": None}}, "gpt-4o"),
        ({"model": "hf/local", "model_args": {"model_path": "./my-model"}}, "./my-model"),
        ({"model": "none"}, "none"),
    ],
)
def test_a_model_goes_by_its_name_at_the_provider(spec: dict[str, Any], name: str) -> None:
    assert model_of({"eval": spec}) == name


def metrics_of(scores: list[dict[str, Any]], tmp_path: Path) -> Any:
    results = {"scores": scores}
    log = open_inspect_log(written(tmp_path / "log.json", document(results=results)), "log")
    return read_inspect(log)


def test_reducers_part_metrics_and_numbers_that_are_none_are_missing(tmp_path: Path) -> None:
    entry = {"name": "a", "scorer": "a", "metrics": {"mean": {"name": "mean", "value": 3}}}
    bad = {"name": "b", "scorer": "b", "metrics": {"mean": {"name": "mean", "value": math.nan}}}
    read = metrics_of([entry, {**entry, "reducer": "max"}, bad], tmp_path)
    assert read.select("metric", "value", "n").rows() == [
        ("mean,a", 3, None),
        ("mean,a,max", 3, None),
        ("mean,b", None, None),
    ]


def items_of(tmp_path: Path, *changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the first samples, each changed."""
    whole = document()
    samples = [
        {**sample, **change} for sample, change in zip(whole["samples"], changes, strict=False)
    ]
    log = open_inspect_log(written(tmp_path / "log.json", {**whole, "samples": samples}), "log")
    return read_inspect_items(log).to_dicts()


def scored(value: object, answer: object = None) -> dict[str, Any]:
    return {"scores": {"s": {"value": value, "answer": answer}}}


@pytest.mark.parametrize(
    ("values", "correct"),
    [
        (("C", "I", "N"), [True, False, False]),
        (("C", "P", True), [True, None, True]),
        ((1, 0.0, "1"), [True, False, True]),
        ((1, 0.25, 0), [None, None, None]),  # a score between 0 and 1: no cut is the right one
        ((1, 7, 0), [None, None, None]),
        (("C", "?", math.nan), [True, None, None]),
        (({"a": 1}, [1], "C"), [None, None, True]),
    ],
)
def test_what_is_right(tmp_path: Path, values: Any, correct: list[bool | None]) -> None:
    assert [row["correct"] for row in items_of(tmp_path, *map(scored, values))] == correct


def test_values_are_numbers_as_inspect_takes_them() -> None:
    assert [value_of(v) for v in ("C", "I", "P", "N", "yes", "False", "2.5", 3)] == [
        *(1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 2.5, 3.0)
    ]
    assert [value_of(v) for v in (None, [1], {"a": 1}, "maybe", float("inf"))] == [None] * 5


def test_a_value_of_several_parts_is_several_metrics(tmp_path: Path) -> None:
    (row,) = items_of(tmp_path, scored({"tone": 3, "kind": "C", "note": "odd"}))
    assert json.loads(row["metrics"]) == {"tone": 3, "kind": 1}


@pytest.mark.parametrize(
    ("target", "answer", "gold", "chosen"),
    [
        ("B", "c", 1, 2),
        (["C"], "A, B", 2, None),
        (["A", "B"], "", None, None),
        ("Mars", "Venus", 1, 2),  # the choice's text
        ("D", None, None, None),
    ],
)
def test_gold_and_chosen(
    tmp_path: Path, target: Any, answer: Any, gold: int | None, chosen: int | None
) -> None:
    (row,) = items_of(tmp_path, {"target": target, **scored("I", answer)})
    assert (row["gold"], row["chosen"]) == (gold, chosen)
    assert row["log_likelihoods"] == row["greedy"] == [None] * 3


def test_items_stand_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    whole = document()
    backwards = {**whole, "samples": whole["samples"][::-1]}
    log = open_inspect_log(written(tmp_path / "log.json", backwards), "log")
    assert [one["id"] for one in log.samples()] == ["largest", "fastest", "tilted"]


KEY = "7" * 32


def test_a_document_has_one_hash_however_it_was_logged(tmp_path: Path) -> None:
    as_message = [{"id": "x1", "role": "user", "content": [{"type": "text", "text": "2 + 2 ="}]}]
    reference = [{"id": "x1", "role": "user", "content": f"attachment://{KEY}"}]
    attached = {"input": reference, "attachments": {KEY: "2 + 2 ="}}
    changes = ({"input": "2 + 2 ="}, {"input": as_message}, attached)
    same = [items_of(tmp_path, change)[0]["doc_sha256"] for change in changes]
    assert len(set(same)) == 1
    assert items_of(tmp_path, {"input": "2 + 3 ="})[0]["doc_sha256"] not in same


def test_a_message_after_the_answer_is_not_read(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Why?"}, {"type": "image", "image": "a.png"}],
        },
        {"role": "assistant", "content": "So."},
        {"role": "tool", "content": "done"},
    ]
    whole = document()
    sample = {**whole["samples"][0], "messages": messages, "input": "Why?"}
    log = open_inspect_log(written(tmp_path / "log.json", {**whole, "samples": [sample]}), "log")
    (item,) = read_inspect_items(log).to_dicts()
    assert item["texts"] == [["Be brief.\n\nWhy?\n\nSo.", "Be brief.\n\nWhy?", "Why?"], [], []]


HALF = "half a pair: \ud800"


@pytest.mark.parametrize("place", [("eval", "task"), ("results", "scores", 0, "name")])
def test_a_name_that_is_no_text_is_one_message(
    make_run: Callable[..., Any], tmp_path: Path, place: tuple[Any, ...]
) -> None:
    whole = document()
    container = reduce(getitem, place[:-1], whole)
    container[place[-1]] = HALF
    path = written(tmp_path / "log.json", whole)
    root = make_run(lengths=(4, 5), context=5, sites=("final",)).root
    done = CliRunner().invoke(main, ["benchmarks", "add", str(root), str(path), "--items"])
    assert done.exit_code == 2, done.exception
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "change", [{"metadata": {"level": HALF}}, {"input": HALF}, {"scores": {HALF: {"value": 1}}}]
)
def test_items_with_half_a_surrogate_pair_are_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    whole = document()
    whole["samples"][0] |= change
    with pytest.raises(InputError, match=r"log\.json"):
        read_inspect_items(
            open_inspect_log(written(tmp_path / "log.json", whole), "log.json"), "level"
        )


def unfinished(path: Path) -> Path:
    """A log whose evaluation was killed: its header comes last."""
    files = members(LOGS / "planets.eval")
    return zipped(path, {name: data for name, data in files.items() if name != HEADER})


def truncated(path: Path) -> Path:
    path.write_bytes((LOGS / "planets.eval").read_bytes()[:-40])
    return path


def with_header(**changes: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        files = members(LOGS / "planets.eval")
        header = {**json.loads(files[HEADER]), **changes}
        return zipped(path, {**files, HEADER: json.dumps(header).encode()})

    return make


ERROR = {
    "message": "RuntimeError('out of memory')\nat line 3",
    "traceback": "",
    "traceback_ansi": "",
}


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (truncated, ErrorKind.INVALID_VALUE, "inspect log dump"),
        (lambda path: zipped(path, {}), ErrorKind.INVALID_VALUE, "inspect log dump"),
        (lambda path: zipped(path, {HEADER: b"[]"}), ErrorKind.INVALID_VALUE, "inspect log dump"),
        (with_header(version=float("inf")), ErrorKind.INVALID_VALUE, "inspect log dump"),
        (unfinished, ErrorKind.INCOMPLETE, "status started"),
        (with_header(status="cancelled"), ErrorKind.INCOMPLETE, "inspect eval-retry"),
        (with_header(status="error", error=ERROR), ErrorKind.INCOMPLETE, "out of memory"),
        (with_header(eval=None), ErrorKind.INVALID_VALUE, "inspect log dump"),
        (with_header(results=None), ErrorKind.INVALID_VALUE, "inspect score"),
    ],
)
def test_what_is_no_finished_log_is_one_message_and_writes_nothing(
    make_run: MakeRun,
    tmp_path: Path,
    make: Callable[[Path], Path],
    kind: ErrorKind,
    says: str,
) -> None:
    path = make(tmp_path / "log.eval")
    with pytest.raises(InputError) as refused:
        read_inspect(open_inspect_log(path, "log.eval"))
    assert refused.value.kind == kind
    root = make_run(lengths=(4, 5), context=5, sites=("final",)).root
    done = CliRunner().invoke(main, ["benchmarks", "add", str(root), str(path)])
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(read_scores(root)) == 0


def damaged_sample(path: Path) -> Path:
    data = bytearray((LOGS / "planets.eval").read_bytes())
    with zipfile.ZipFile(LOGS / "planets.eval") as archive:
        start = archive.getinfo("samples/tilted_epoch_1.json").header_offset
    data[start + 200] ^= 1
    path.write_bytes(data)
    return path


def without(start: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        files = members(LOGS / "planets.eval")
        return zipped(path, {n: data for n, data in files.items() if not n.startswith(start)})

    return make


def one_sample(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        files = members(LOGS / "planets.eval")
        return zipped(path, {HEADER: files[HEADER], "samples/tilted_epoch_1.json": content})

    return make


UNSCORED = b'{"id": "tilted", "epoch": 1, "input": "a", "target": "b", "scores": {}}'


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (damaged_sample, ErrorKind.INVALID_VALUE),
        (without("samples/"), ErrorKind.NOT_FOUND),
        (one_sample(b"{"), ErrorKind.INVALID_VALUE),
        (one_sample(b"[]"), ErrorKind.INVALID_VALUE),
        (one_sample(b'{"id": 1, "epoch": 1, "scores": {"a": {}}}'), ErrorKind.INVALID_VALUE),
        (one_sample(UNSCORED), ErrorKind.NOT_FOUND),
    ],
)
def test_samples_that_cannot_be_read_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], kind: ErrorKind
) -> None:
    log = open_inspect_log(make(tmp_path / "log.eval"), "log.eval")
    assert len(read_inspect(log)) == 1  # scores need no samples
    with pytest.raises(InputError, match=r"log\.eval") as refused:
        read_inspect_items(log)
    assert refused.value.kind == kind
