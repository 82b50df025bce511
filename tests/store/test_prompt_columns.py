"""What a prompt carries beside its tokens: written when a run begins, read as it was, checked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sealed import reseal
from small_capture import Capture
from stored import object_path

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.errors import ConflictError, ErrorKind, FormatError, NotFoundError
from lpp.store.format.prompt_columns import PROMPT_COLUMNS
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA, encode_table

COLUMNS = {
    "id": pa.array([7, None, -(2**63), 2**63 - 1]),
    "text": pa.array(["a", None, "é\n\0", "x" * 70_000]),
    "field.label": pa.array(["news", "sport", "", None]),
    "field.count": pa.array([1, 2, None, 2**62]),
    "field.score": pa.array([0.5, float("nan"), None, -0.0]),
    "field.train": pa.array([True, None, False, True]),
    "field.text": pa.array(["another", None, "text", "field"]),
    "field." + "é" * 100: pa.array([None] * 4, pa.string()),
}


def with_columns(prompts: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        prompts = prompts.append_column(name, values)
    return prompts


def begin(capture: Capture, root: Path, columns: dict[str, pa.Array]) -> Run:
    """A run in the store at `root` without a shard, as a reader sees it."""
    prompts = with_columns(capture.prompts, columns)
    RunWriter(create_store(root).path, capture.plan, prompts)
    return open_store(root).runs[capture.plan.run_id]


def rewrite(run: Run, table: pa.Table) -> Run:
    """The run with other prompts under a record that fits them."""
    object_path(run.path, "prompts.arrow").write_bytes(encode_table(table))
    reseal(run.path)
    return Run(run.path)


def test_every_column_comes_back_as_it_was(capture: Capture, tmp_path: Path) -> None:
    run = begin(capture, tmp_path / "store", COLUMNS)
    assert run.extra_columns.names == list(COLUMNS)
    assert run.prompts().equals(capture.prompts)
    table = run.prompts(*COLUMNS)
    assert table.column_names == [*PROMPTS_SCHEMA.names, *COLUMNS]
    for name, values in COLUMNS.items():
        (chunk,) = table[name].chunks
        assert chunk.type == values.type
        assert str(chunk.to_pylist()) == str(values.to_pylist()), name  # NaN and -0.0 as well
    some = run.prompts("field.label", "id", "id")
    assert some.column_names == [*PROMPTS_SCHEMA.names, "field.label", "id"]
    assert run.verify() != []  # shards are missing, and nothing else
    assert {problem.where.rsplit("/", 1)[-1] for problem in run.verify()} == {"COMMIT.json"}


def test_a_run_without_columns_has_none(capture: Capture, tmp_path: Path) -> None:
    run = begin(capture, tmp_path / "store", {})
    assert run.extra_columns.names == []
    with pytest.raises(NotFoundError, match="no column 'text'; they have none beside"):
        run.prompts("text")
    more = begin(capture, tmp_path / "more", {"id": COLUMNS["id"]})
    with pytest.raises(NotFoundError, match=r"no column 'field\.a', 'text'; they have id\."):
        more.prompts("field.a", "text")


def test_a_run_keeps_the_columns_that_it_began_with(capture: Capture, tmp_path: Path) -> None:
    root = tmp_path / "store"
    begin(capture, root, {"id": COLUMNS["id"], "field.count": COLUMNS["field.count"]})
    for columns in ({}, {"id": COLUMNS["id"]}, COLUMNS):
        run = begin(capture, root, columns)
        assert run.extra_columns.names == ["id", "field.count"]
    run.require_columns([])
    run.require_columns(["field.count", "id"])
    with pytest.raises(
        ConflictError, match=r"carry no field\.label, text\. To add fields"
    ) as caught:
        run.require_columns(["id", "field.label", "text"])
    assert caught.value.kind is ErrorKind.PLAN_DIFFERS


def test_a_run_does_not_take_other_values(capture: Capture, tmp_path: Path) -> None:
    values = {
        "field.count": COLUMNS["field.count"],
        "field.score": pa.array([0.5, None, float("nan"), 2.0]),
    }
    begin(capture, tmp_path, values)
    begin(capture, tmp_path, values)
    other = {**values, "field.score": pa.array([0.5, 1.0, float("nan"), 3.0])}
    with pytest.raises(
        ConflictError,
        match=r"other values of field\.score in 2 prompts, such as "
        "None and not 1.0 of prompt 1, and what a run holds stays",
    ) as caught:
        begin(capture, tmp_path, other)
    assert caught.value.kind is ErrorKind.PLAN_DIFFERS


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": COLUMNS["field.label"]}, "column label is none of the format"),
        ({"prompt_id": COLUMNS["id"]}, "column prompt_id is none of the format"),
        ({"field.": COLUMNS["id"]}, "not a name of a field: it takes 0 bytes"),
        ({"field." + "é" * 101: COLUMNS["id"]}, "it takes 202 bytes, should be 1 to 200"),
        ({"field.a\tb": COLUMNS["id"]}, r"column 'field.a\\tb': .* does not print"),
        ({"id": COLUMNS["field.score"]}, "column id is double, should be string or int64"),
        ({"text": COLUMNS["id"]}, "column text is int64, should be string"),
        ({"field.a": pa.array([[1]] * 4)}, "column field.a is list<item: int64>"),
        ({"field.a": pa.array([1] * 4, pa.int32())}, "column field.a is int32, should be string"),
        ({"field.a": pa.array(["x"] * 4, pa.large_string())}, "column field.a is large_string"),
        ({"token.a": pa.array([[1.0]] * 4, pa.list_(pa.float32()))}, "column token.a is list"),
        ({"token.loss_mask": pa.array([[1]] * 4)}, "column token.loss_mask is list<item: int64>"),
        ({"token.": pa.array([[1]] * 4)}, "column token.: not a name of a field"),
    ],
)
def test_no_other_column_is_written(
    capture: Capture, tmp_path: Path, columns: dict[str, pa.Array], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        begin(capture, tmp_path / "store", columns)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        (pa.field("id", pa.float64()), [1.5] * 4, "column id is double"),
        (pa.field("field.a", pa.int32()), [1] * 4, "column field.a is int32"),
        (pa.field("text", pa.string(), nullable=False), ["x"] * 4, "text is string not null"),
        (pa.field("field.\n", pa.string()), ["x"] * 4, "not a name of a field"),
        (pa.field("field.count", pa.int64()), [1] * 4, "column field.count is there 2 times"),
    ],
)
def test_a_column_of_another_kind_is_refused_and_reported(
    capture: Capture, tmp_path: Path, field: pa.Field, values: list[Any], message: str
) -> None:
    run = begin(capture, tmp_path / "store", {"field.count": COLUMNS["field.count"]})
    column = pa.array(values, field.type)
    run = rewrite(run, run.prompts("field.count").append_column(field, column))
    with pytest.raises(FormatError, match=message) as caught:
        run.prompts("field.count")
    assert caught.value.kind is ErrorKind.CORRUPT
    assert any(message in problem.what for problem in run.verify())
    assert run.prompts().equals(capture.prompts)


def test_columns_that_the_format_does_not_name_are_ignored(
    capture: Capture, tmp_path: Path
) -> None:
    run = begin(capture, tmp_path / "store", {"id": COLUMNS["id"]})
    run = rewrite(run, run.prompts("id").append_column("later", pa.array([[1]] * 4)))
    assert run.extra_columns.names == ["id"]
    assert run.prompts("id").num_columns == 7


def test_a_text_that_is_not_utf_8_is_refused(capture: Capture, tmp_path: Path) -> None:
    bad = pa.array([b"\xff"] * 4, pa.binary()).view(pa.string())
    run = begin(capture, tmp_path / "store", {"field.a": bad})
    with pytest.raises(FormatError, match=r"prompts\.arrow: not the table it should be"):
        run.prompts("field.a")
    assert any("prompts.arrow" in problem.where for problem in run.verify())


@pytest.mark.slow
def test_texts_that_pack_very_well_can_be_read_again(capture: Capture, tmp_path: Path) -> None:
    texts = pa.array(["\0" * (20 << 20)] * 4)
    run = begin(capture, tmp_path / "store", {"text": texts})
    assert run.prompts("text")["text"].combine_chunks().equals(texts)


def test_the_plan_does_not_name_them(capture: Capture, tmp_path: Path) -> None:
    bare = begin(capture, tmp_path / "bare", {})
    carrying = begin(capture, tmp_path / "carrying", COLUMNS)
    assert carrying.plan.document == bare.plan.document
    assert carrying.id == bare.id


BY_TOKEN = {
    "token.loss_mask": pa.array([[k % 2 == 0 for k in range(n)] for n in (5, 7, 3, 6)]),
    "token.reward": pa.array([[0.5 * k for k in range(5)], None, [1.0, 2.0, 3.0], [0.0] * 6]),
}


def with_values(capture: Capture) -> Capture:
    """The capture with a plan that names `BY_TOKEN`."""
    prompts = replace(capture.plan.prompts, token_columns=tuple(BY_TOKEN))
    return replace(capture, plan=replace(capture.plan, prompts=prompts))


def test_values_by_token_come_back_beside_the_statistics(capture: Capture, tmp_path: Path) -> None:
    capture = with_values(capture)
    capture = replace(capture, prompts=with_columns(capture.prompts, BY_TOKEN))
    run = capture.write(tmp_path / "store", shards=(0, 2))  # prompts 0, 1 and 3
    assert (run.commit.format, run.shards[0].record.format) == (5, 3)
    table = run.tokens("token.reward", "token.loss_mask").to_table()
    assert table.column_names == [*TOKENS_SCHEMA.names, "token.reward", "token.loss_mask"]
    assert table.select(TOKENS_SCHEMA.names).equals(run.tokens().to_table())
    for name, values in BY_TOKEN.items():
        lists = [values.to_pylist()[prompt] or [None] * 7 for prompt in (0, 1, 3)]
        assert table[name].to_pylist() == [value for values in lists for value in values]
    with pytest.raises(NotFoundError, match=r"in 'token\.a'; it has token\.loss_mask, token\.rew"):
        run.tokens("token.a")
    assert {problem.where.rsplit("/", 1)[-1] for problem in run.verify()} == {"COMMIT.json"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"columns by token are \(\), the plan has \('token\.loss_mask', 'token\.reward'\)"),
        ({**BY_TOKEN, "token.a": pa.array([[1]] * 4)}, "'token.a'.*, the plan has"),
        ({"token.reward": pa.array([[0.5]] * 4)}, "reward should have a value for each token"),
        (
            {"token.reward": pa.array([[0.5] * 4 + [None], *[None] * 3])},
            "not have null for a token",
        ),
    ],
)
def test_values_by_token_that_do_not_fit(
    capture: Capture, tmp_path: Path, columns: dict[str, pa.Array], message: str
) -> None:
    capture = with_values(capture)
    with pytest.raises(ValueError, match=message):
        begin(capture, tmp_path / "no", {**BY_TOKEN, **columns} if len(columns) == 1 else columns)
    if len(columns) == 1:  # a reader does not trust the writer
        run = begin(capture, tmp_path / "store", BY_TOKEN)
        run = rewrite(run, with_columns(capture.prompts, {**BY_TOKEN, **columns}))
        with pytest.raises(FormatError, match=message):
            run.tokens("token.reward")
        assert any("token.reward" in problem.what for problem in run.verify())


def test_declared_columns_are_distinct() -> None:
    names = [column.name for column in PROMPT_COLUMNS]
    assert len({*names, *PROMPTS_SCHEMA.names}) == len(names) + len(PROMPTS_SCHEMA.names)
    for column in PROMPT_COLUMNS:
        assert column.types, column
        assert column.meaning
