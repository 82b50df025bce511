"""JSON documents: canonical bytes, all problems at once, what a later release may add."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.documents import (
    canonical_json,
    document_hash,
    load_json,
    parse_document,
    to_document,
    validate_document,
    wide_integers,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Outer:
    text: str
    count: int
    flag: bool
    choice: Literal["a", "b"]
    maybe: str | None
    many: tuple[Inner, ...]
    table: Mapping[str, int | str | None]
    one: Inner
    later: int | None = None
    labels: tuple[str, ...] = field(default_factory=tuple)


INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)

INNER = st.builds(Inner, width=INTEGERS, name=st.text())
OUTER = st.builds(
    Outer,
    text=st.text(),
    count=INTEGERS,
    flag=st.booleans(),
    choice=st.sampled_from(["a", "b"]),
    maybe=st.none() | st.text(),
    many=st.lists(INNER, max_size=3).map(tuple),
    table=st.dictionaries(st.text(), st.none() | INTEGERS | st.text(), max_size=3),
    one=INNER,
    later=st.none() | INTEGERS,
    labels=st.lists(st.text(), max_size=2).map(tuple),
)


@pytest.mark.slow
@given(OUTER)
def test_what_is_written_is_read(record: Outer) -> None:
    document = load_json(canonical_json(to_document(record)), "here")
    assert parse_document(Outer, document, "here") == record
    assert document_hash(document) == document_hash(to_document(record))


def test_keys_that_are_no_text_are_sorted_as_their_text() -> None:
    assert canonical_json({10: 1, 9: 2, "1": {11: 0, 2: 0}}) == b'{"1":{"11":0,"2":0},"10":1,"9":2}'


@given(
    st.recursive(
        st.none() | st.booleans() | INTEGERS | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_canonical_bytes_do_not_depend_on_order(document: Any) -> None:
    assert canonical_json(load_json(canonical_json(document), "")) == canonical_json(document)
    assert canonical_json(backwards(document)) == canonical_json(document)


def backwards(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: backwards(document[key]) for key in reversed(list(document))}
    return [backwards(item) for item in document] if isinstance(document, list) else document


def test_canonical_bytes_by_hand() -> None:
    document = {"é": [1, None, True], "a": {"z": 'Ω\n"', "b": -3}}
    expected = '{"a":{"b":-3,"z":"Ω\\n\\""},"é":[1,null,true]}'
    assert canonical_json(document) == expected.encode()
    assert document_hash(document) == hashlib.sha256(expected.encode()).hexdigest()


def test_canonical_bytes_are_those_of_rfc_8785() -> None:
    # the RFC's own example of sorting, section 3.2.3: by UTF-16 code units, not by code points
    keys = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    found = canonical_json({"x": keys}).decode()
    order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(found)["x"]) == order
    assert canonical_json({"a": "\u0001\u001f\u007f/\b\f"}) == (
        b'{"a":"\\u0001\\u001f\x7f/\\b\\f"}'
    )


@given(OUTER)
def test_canonical_bytes_are_those_of_another_implementation(record: Outer) -> None:
    document = to_document(record)
    assert canonical_json(document) == rfc8785.dumps(document)


def test_integers_that_javascript_loses_are_named() -> None:
    document = {"a": [1, 2**53 - 1, {"b": -(2**53)}], "c": 2**53, "d": True}
    assert wide_integers(document) == [f"a[2].b is {-(2**53)}", f"c is {2**53}"]


def test_every_problem_at_once_with_its_place() -> None:
    document = {
        "text": 3,
        "count": True,
        "flag": 1,
        "choice": "c",
        "maybe": 4,
        "many": [{"width": 1, "name": "x"}, {"width": "2", "name": None}, 7],
        "table": {"k": [], "l": 1},
        "one": {},
        "labels": {"x": 1},
    }
    expected = [
        "text should be str, is 3",
        "count should be int, is True",
        "flag should be bool, is 1",
        "choice should be one of ['a', 'b'], is 'c'",
        "maybe should be str or NoneType, is 4",
        "many[1].width should be int, is '2'",
        "many[1].name should be str, is None",
        "many[2] should be an object, is 7",
        "table.k should be int or str or NoneType, is []",
        "one.width is missing",
        "one.name is missing",
        "labels should be a list, is {'x': 1}",
    ]
    assert validate_document(Outer, document) == expected
    with pytest.raises(FormatError) as caught:
        parse_document(Outer, document, "there/plan.json")
    assert str(caught.value) == "there/plan.json: " + "; ".join(expected) + "."
    assert caught.value.kind is ErrorKind.CORRUPT


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_document_is_an_object(document: Any) -> None:
    assert validate_document(Outer, document) == [f"document should be an object, is {document!r}"]
    assert validate_document(Inner, {"width": 1.0, "name": "x"}) == ["width should be int, is 1.0"]


def test_later_fields_are_ignored_and_defaults_fill_in() -> None:
    inner = {"width": 1, "name": "x"}
    document = {
        "text": "t",
        "count": 1,
        "flag": False,
        "choice": "a",
        "maybe": None,
        "many": [],
        "table": {},
        "one": inner | {"unknown": [1.5]},
        "added_later": {"deep": True},
    }
    record = parse_document(Outer, document, "here")
    assert record.one == Inner(width=1, name="x")
    assert (record.later, record.labels) == (None, ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'\xff\xfe{"a": 1}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xe9"}',
    ],
    ids=range(12),
)
def test_what_is_no_document_is_named(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^some/where.json: not a JSON document") as caught:
        load_json(data, "some/where.json")
    assert caught.value.kind is ErrorKind.CORRUPT


@given(st.binary(max_size=40))
def test_any_bytes_are_a_document_or_a_format_error(data: bytes) -> None:
    try:
        document = load_json(data, "here")
    except FormatError:
        return
    assert json.loads(canonical_json(document)) == document
