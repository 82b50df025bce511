"""SPEC.md says what the code does: fields, columns, sections and links."""

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lpp.store.format.commit_record import (
    CommitRecord,
    ContinuationRecord,
    ContinuationSource,
    HeadRecord,
    MatrixRecord,
    ScoresRecord,
    VocabularyRecord,
)
from lpp.store.format.plan import Plan
from lpp.store.format.prompt_columns import (
    FIELD_PREFIX,
    FIELD_TYPES,
    MAX_FIELD_NAME_BYTES,
    PROMPT_COLUMNS,
    TOKEN_PREFIX,
    TOKEN_TYPES,
)
from lpp.store.format.quarantine import QUARANTINE_SCHEMA, TEXTS_SCHEMA
from lpp.store.format.tables import (
    ITEMS_SCHEMA,
    OPTIONAL_COLUMNS,
    PROMPTS_SCHEMA,
    SCORES_SCHEMA,
    TOKENS_SCHEMA,
    VOCABULARY_SCHEMA,
    WRITTEN_SCHEMA,
)

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "store" / "SPEC.md").read_text("utf-8")

TYPES = {"list<item: int32>": "list of int32", "list<item: double>": "list of float64"}
TYPES |= {"list<item: float>": "list of float32"}
TYPES |= {"float": "float32", "double": "float64", "list<item: bool>": "list of bool"}
TYPES |= {"list<item: int64>": "list of int64"}


def rows_after(heading: str) -> list[list[str]]:
    """Cells of the first table after some words."""
    text = SPEC[SPEC.index(heading) + len(heading) :]
    table = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    return [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in table[1].split("\n")
    ]


def described(heading: str) -> dict[str, str]:
    """Name and type of each row of a table."""
    return {row[0].strip("`"): row[1] for row in rows_after(heading) if len(row) > 1}


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("### tokens.arrow", TOKENS_SCHEMA),
        ("### prompts.arrow", PROMPTS_SCHEMA),
        ("**In a shard**", QUARANTINE_SCHEMA),
        ("**In a run**", TEXTS_SCHEMA),
        ("`scores.arrow` is sorted", SCORES_SCHEMA),
        ("`items.arrow` has", ITEMS_SCHEMA),
        ("`vocabulary.arrow` has", VOCABULARY_SCHEMA),
        ("`written.arrow` has", WRITTEN_SCHEMA),
    ],
)
def test_columns(heading: str, schema: pa.Schema) -> None:
    told = described(heading)
    assert list(told) == schema.names
    none_nullable = re.match(
        r"[^|]*(No column is|None of these columns is) nullable", SPEC[SPEC.index(heading) :]
    )
    for field in schema:
        kind, *flags = told[field.name].split(", ")
        assert kind == TYPES.get(str(field.type), str(field.type)), field.name
        assert ("not null" in flags or bool(none_nullable)) is not field.nullable, field.name
        assert ("optional" in flags) is (field.name in OPTIONAL_COLUMNS), field.name


def test_more_columns_of_prompts() -> None:
    told = described("**More columns** MAY follow, all nullable:")
    types = {column.name: column.types for column in PROMPT_COLUMNS} | {
        f"{FIELD_PREFIX}<name>": FIELD_TYPES,
        f"{TOKEN_PREFIX}<name>": TOKEN_TYPES,
    }
    assert set(told) == set(types)
    for name, kinds in types.items():
        words = [TYPES.get(str(kind), str(kind)) for kind in kinds]
        assert told[name].replace(" or ", ", ") == ", ".join([*words, "optional"])
    assert f"1 to {MAX_FIELD_NAME_BYTES} bytes of printable Unicode" in SPEC


def leaves(kind: type, place: str = "") -> Iterator[tuple[str, bool]]:
    """Each field of a dataclass that holds no other, and whether it may be absent."""
    hints = typing.get_type_hints(kind)
    for field in fields(kind):
        if field.metadata.get("beside"):  # it is in no document
            continue
        hint: Any = hints[field.name]
        item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if is_dataclass(hint):
            yield from leaves(typing.cast("type", hint), f"{place}{field.name}.")
            continue
        yield place + field.name, optional
        for part in typing.get_args(hint) if isinstance(hint, types.UnionType) else ():
            if is_dataclass(part):
                yield from leaves(typing.cast("type", part), f"{place}{field.name}.")
        if is_dataclass(item):
            yield from leaves(typing.cast("type", item), f"{place}{field.name}[].")


def test_plan_fields() -> None:
    told = described("## 4. The plan")
    assert {name: "optional" in kind for name, kind in told.items()} == dict(leaves(Plan))


def test_fields_of_a_continuation() -> None:
    told = described("of the canonical form of `source`. The record:")
    names = {name for row in told for name in re.findall(r"[\w.]+", row)}
    of_source = {f"source.{field.name}" for field in fields(ContinuationSource)}
    of_record = {field.name for field in fields(ContinuationRecord)} - {"source"}
    assert names == of_source | of_record


def test_record_fields() -> None:
    told = described("## 6. The commit record")
    needed = dict.fromkeys(("format", "base", "self_xxh3_128"), False)  # a writer fills them in
    expected = dict(leaves(CommitRecord)) | {"objects.*.chunks": True} | needed
    assert {name: "optional" in kind for name, kind in told.items()} == expected


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("The record:", ScoresRecord),
        ("A head has no objects.", HeadRecord),
        ("A *matrix* lies", MatrixRecord),
        ("A *vocabulary* says", VocabularyRecord),
    ],
)
def test_fields_of_other_records(heading: str, record: type[Any]) -> None:
    names = [row[0] for row in rows_after(heading) if len(row) > 1]
    told = set(re.findall(r"`(\w+)`", " ".join(names)))
    assert told == {field.name for field in fields(record)}


def test_links_are_defined_and_used() -> None:
    defined = set(re.findall(r"^\[([^\]]+)\]: https://\S+$", SPEC, re.MULTILINE))
    text = re.sub(r"```.*?```|`[^`]*`", "", SPEC, flags=re.DOTALL)
    body = text[: text.index("\n[Arrow]: ")]
    used = {
        second or first
        for first, second in re.findall(r"\[([^\]]+)\](?:\[([^\]]+)\])?(?!\()", body)
    }
    assert used == defined
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", SPEC, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", SPEC)) <= anchors
