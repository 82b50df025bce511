"""Vocabularies of a store: exact, once for each tokenizer, refused where they are not sound."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from places import BUCKET, Behind, place_of, strays
from sealed import seal
from small_capture import make_capture

from lpp.store import RunWriter, create_store, open_store
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.tables import VOCABULARY_SCHEMA, encode_table
from lpp.store.shared.verify import remove_damaged, verify_shared
from lpp.store.shared.vocabularies import (
    add_vocabulary,
    holds_vocabulary,
    read_vocabulary,
    vocabulary_name,
)

TABLE = pa.table(
    {
        "id": [0, 1, 7, 250_000],
        "bytes": [None, b" the", b"\xf0\x9f", b"\n"],
        "text": ["<|end|>", " the", "\ufffd", "\n"],
    }
).cast(VOCABULARY_SCHEMA)
TOKENIZER = "c0ffee"
FOLDER = f"vocabularies/{vocabulary_name(TOKENIZER)}"


@pytest.fixture(params=["disk", BUCKET])
def place(request: pytest.FixtureRequest) -> Behind:
    """A store with nothing in it."""
    found = place_of(request.param, request)
    create_store(found.url)
    return found


def rows(**columns: list[Any]) -> pa.Table:
    return pa.table(columns).cast(VOCABULARY_SCHEMA)


def test_comes_back_as_it_was_written(place: Behind) -> None:
    assert not holds_vocabulary(place.url, TOKENIZER)
    assert read_vocabulary(place.url, TOKENIZER) is None
    assert add_vocabulary(place.url, TOKENIZER, TABLE)
    assert holds_vocabulary(place.url, TOKENIZER)
    found = read_vocabulary(place.url, TOKENIZER)
    assert found is not None
    assert found.equals(TABLE)
    assert found.schema.equals(VOCABULARY_SCHEMA)
    assert read_vocabulary(place.url, "another") is None
    assert verify_shared(place.url) == []
    assert strays(place.held()) == set()


def test_is_there_once_for_each_tokenizer(place: Behind) -> None:
    assert add_vocabulary(place.url, TOKENIZER, TABLE)
    before = place.held()
    assert not add_vocabulary(place.url, TOKENIZER, TABLE.slice(1))
    assert place.held() == before
    assert add_vocabulary(place.url, "another", TABLE)
    assert len({key.split("/")[1] for key in place.held() if key.startswith("vocab")}) == 2


def test_every_run_of_the_tokenizer_has_it(place: Behind) -> None:
    capture = make_capture()
    RunWriter(create_store(place.url).path, capture.plan, capture.prompts)
    (run,) = open_store(place.url).runs.values()
    assert run.vocabulary() is None
    add_vocabulary(place.url, run.plan.tokenizer.fingerprint, TABLE)
    found = run.vocabulary()
    assert found is not None
    assert found.equals(TABLE)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (rows(id=[1, 1], bytes=[b"a", b"a"], text=["a", "a"]), "each once"),
        (rows(id=[2, 1], bytes=[b"a", b"b"], text=["a", "b"]), "in order"),
        (rows(id=[1], bytes=[b"a"], text=["a" * (1 << 20)]), "bytes that unpack to"),
        (TABLE.drop_columns("text"), "columns missing"),
    ],
)
def test_what_no_reader_would_take_is_not_written(
    place: Behind, table: pa.Table, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        add_vocabulary(place.url, TOKENIZER, table)
    assert set(place.held()) == {"lpp.json"}


def altered(place: Behind, table: pa.Table, **fields: Any) -> None:
    """Put another table and other fields of the record in place, sealed as their writer would."""
    import json

    import xxhash

    data = encode_table(table)
    record = json.loads(place.held()[f"{FOLDER}/COMMIT.json"])
    described = {"bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    objects = {"vocabulary.arrow": described}
    place.put(f"{FOLDER}/{record['base']}/vocabulary.arrow", data)
    place.put(f"{FOLDER}/COMMIT.json", seal(record | {"objects": objects} | fields))


@pytest.mark.parametrize(
    ("table", "fields", "problem"),
    [
        (TABLE.take([1, 0, 2, 3]), {}, "ids are not in order"),
        (TABLE.slice(1), {}, "3 rows, 4 were committed"),
        (TABLE, {"tokenizer": "another"}, "of the tokenizer another"),
        (rows(id=[1], bytes=[b""], text=["a" * (1 << 20)]), {"rows": 1}, "bytes that unpack to"),
    ],
)
def test_what_a_stranger_wrote_is_refused(
    place: Behind, table: pa.Table, fields: dict[str, Any], problem: str
) -> None:
    add_vocabulary(place.url, TOKENIZER, TABLE)
    altered(place, table, **fields)
    with pytest.raises(FormatError, match=problem) as caught:
        read_vocabulary(place.url, TOKENIZER)
    assert caught.value.kind is ErrorKind.CORRUPT
    assert "lpp-capture repair" in str(caught.value) or "lpp-analyze verify" in str(caught.value)
    assert verify_shared(place.url)


def test_other_tokens_than_those_of_the_record_are_found_and_removed(place: Behind) -> None:
    add_vocabulary(place.url, TOKENIZER, TABLE)
    altered(place, TABLE.set_column(2, VOCABULARY_SCHEMA.field("text"), [["a", "b", "c", "d"]]))
    (problem,) = verify_shared(place.url)
    assert (problem.where, problem.what) == (FOLDER, "its tokens are not those of its record")
    assert remove_damaged(place.url) == [problem]
    assert not holds_vocabulary(place.url, TOKENIZER)
    assert add_vocabulary(place.url, TOKENIZER, TABLE)


def test_text_that_is_not_utf8_is_refused(place: Behind) -> None:
    add_vocabulary(place.url, TOKENIZER, TABLE)
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], "<i4")), pa.py_buffer(b"\xff\xfe")]
    )
    table = pa.Table.from_arrays(
        [pa.array([3], pa.int32()), pa.array([b"x"], pa.binary()), bad], schema=VOCABULARY_SCHEMA
    )
    altered(place, table, rows=1)
    with pytest.raises(FormatError, match="UTF"):
        read_vocabulary(place.url, TOKENIZER)
