"""Columns of `prompts` that no declaration names: fields of the corpora, of any name."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner

from lpp.sql import TABLES, build, connect
from lpp.sql.cli.command import main
from lpp.sql.database.catalogue import outdated_tables
from lpp.sql.schema.captured import field_columns
from lpp.store.errors import InputError

Tables = dict[str, pa.Table]

FIELDS = {
    "label": pa.array(["news", None, 'a "b"']),
    "n": pa.array([1, None, 2**62]),
    "score": pa.array([0.5, None, -1.25]),
    "train": pa.array([True, None, False]),
    'it\'s; "odd"': pa.array(["x", "y", "z"]).dictionary_encode(),
    "nothing": pa.nulls(3),
    "é 中": pa.array(["a\0b\n", "\U0001f600", ""]),
}
TYPES = ["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", *["VARCHAR"] * 3]


@pytest.fixture
def labelled(empty_store: Path, tables: Tables) -> Path:
    """A store whose prompts have fields."""
    prompts = tables["prompts"]
    for name, values in FIELDS.items():
        prompts = prompts.append_column(name, values)
    build(empty_store, {**tables, "prompts": prompts})
    return empty_store


def prompts_of(root: Path) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """Columns with their types, and rows."""
    with connect(root, token_stats=False) as connection:
        described = connection.execute("DESCRIBE prompts").fetchall()
        columns = [(name, kind) for name, kind, *_ in described]
        rows = connection.execute("FROM prompts ORDER BY ALL").fetchall()
    return columns, [dict(zip((name for name, _ in columns), row, strict=True)) for row in rows]


def test_a_column_for_each_field(labelled: Path, tables: Tables) -> None:
    columns, rows = prompts_of(labelled)
    declared = len(TABLES["prompts"].columns)
    assert columns[declared:] == list(zip(FIELDS, TYPES, strict=True))
    more = [{name: values[k].as_py() for name, values in FIELDS.items()} for k in range(3)]
    expected = [old | new for old, new in zip(tables["prompts"].to_pylist(), more, strict=True)]
    assert rows == expected
    with connect(labelled, token_stats=False) as connection:
        comments = connection.execute(
            "SELECT DISTINCT comment FROM duckdb_columns() WHERE table_name = 'prompts' "
            "AND column_name IN ('label', 'n')"
        ).fetchall()
    assert comments == [("field of the corpus row",)]


def test_the_command_reads_them(labelled: Path) -> None:
    sql = "SELECT label, count(*) AS n FROM prompts GROUP BY label ORDER BY label"
    done = CliRunner().invoke(main, [str(labelled), sql, "--format", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == [
        {"label": 'a "b"', "n": 1},
        {"label": "news", "n": 1},
        {"label": None, "n": 1},
    ]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": pa.array([[1]] * 3)}, "prompts.label: list<item: int64>, should be string"),
        ({"day": pa.array([1] * 3, pa.date32())}, "prompts.day: date32[day], should be string"),
        (
            {"Label": pa.array(["x"] * 3), "label": pa.array(["y"] * 3)},
            "prompts.Label: DuckDB does not tell it from label",
        ),
        ({"SHA256": pa.array(["x"] * 3)}, "prompts.sha256: DuckDB does not tell it from SHA256"),
        ({"n": pa.array([2**64 - 1] * 3, pa.uint64())}, "prompts.n: "),
    ],
)
def test_columns_that_no_table_may_have(
    empty_store: Path, tables: Tables, columns: dict[str, pa.Array], says: str
) -> None:
    prompts = tables["prompts"]
    for name, values in columns.items():
        prompts = prompts.append_column(name, values)
    with pytest.raises(InputError) as caught:
        build(empty_store, {"prompts": prompts})
    assert says in str(caught.value)
    with pytest.raises(InputError, match=r"runs\.label: unknown column"):
        build(empty_store, {"runs": tables["runs"].append_column("label", pa.array(["x"] * 3))})


def test_they_are_kept(labelled: Path) -> None:
    before = prompts_of(labelled)
    assert outdated_tables(labelled) == []
    build(labelled, {}, keep=["prompts"])
    assert prompts_of(labelled) == before


def test_a_stranger_may_add_a_plain_column(
    labelled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with duckdb.connect(str(labelled / "profiles.duckdb")) as connection:
        connection.execute('ALTER TABLE prompts ADD COLUMN "m""ore" BIGINT')
        connection.execute('UPDATE prompts SET "m""ore" = n_tokens')
    build(labelled, {}, keep=["prompts"])
    _, rows = prompts_of(labelled)
    assert [row['m"ore'] for row in rows] == [row["n_tokens"] for row in rows]
    assert caplog.messages == []


@pytest.mark.parametrize("column", ["list BIGINT[]", "wide HUGEINT", "late BIGINT DEFAULT (1 + 1)"])
def test_prompts_with_any_other_column_are_left_behind(
    labelled: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    with duckdb.connect(str(labelled / "profiles.duckdb")) as connection:
        connection.execute(f"ALTER TABLE prompts ADD COLUMN {column}")
    assert outdated_tables(labelled) == ["prompts"]
    build(labelled, {}, keep=["prompts"])
    assert "table prompts (other columns)" in caplog.text
    assert prompts_of(labelled)[1] == []


@pytest.mark.slow
def test_a_database_of_an_earlier_release_still_opens(labelled: Path) -> None:
    with connect(labelled, write=True) as connection:
        for name in ("id", "text", *FIELDS):
            connection.execute(f"""ALTER TABLE lpp.prompts DROP "{name.replace('"', '""')}" """)
    assert outdated_tables(labelled) == []
    assert [name for name, _ in prompts_of(labelled)[0]] == [
        column.name for column in TABLES["prompts"].columns if column.name not in ("id", "text")
    ]
    build(labelled, {}, keep=["prompts"])
    rows = prompts_of(labelled)[1]
    assert rows
    assert {row["id"] for row in rows} == {None}


def test_a_declared_column_of_another_type_is_no_field(labelled: Path) -> None:
    with connect(labelled, write=True) as connection:
        connection.execute("ALTER TABLE lpp.prompts DROP id")
        connection.execute("ALTER TABLE lpp.prompts ADD COLUMN id BIGINT")
    assert outdated_tables(labelled) == ["prompts"]


def test_names_of_columns() -> None:
    assert field_columns([]) == {}
    names = ["label", "Label", "LABEL", "text", "TEXT", "prompt_id", "entropy", "field.text"]
    found = field_columns(names)
    assert found == {
        "label": "field.field.label",
        "Label": "field.Label",
        "LABEL": "LABEL",
        "field.text": "field.field.text",
        "TEXT": "field.TEXT",
        "text": "field.field.field.text",
        "prompt_id": "field.prompt_id",
        "entropy": "field.entropy",
    }
    assert len({column.casefold() for column in found.values()}) == len(names)
    assert field_columns(names[::-1]) == found
