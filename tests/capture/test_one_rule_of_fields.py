"""Fields of prompts: a corpus in memory, and a sink, take and refuse the same values."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpp.capture.corpus.carried import carried
from lpp.capture.corpus.open import open_texts
from lpp.store import open_store, sink
from lpp.store.errors import InputError
from lpp.store.format.prompt_values import token_values


def by_sink(values: list[Any], folder: Path) -> list[Any]:
    prompts = [{"input_ids": [k + 1], "x": value} for k, value in enumerate(values)]
    with sink(str(folder), model="m", tokenizer=None, sites={"x": 2}, prompts=prompts) as rows:
        for prompt in rows.missing():
            rows.set_aside(prompt, "no rows are needed here")
    (run,) = open_store(folder).runs.values()
    found: list[Any] = run.prompts("field.x")["field.x"].to_pylist()
    return found


def by_corpus(values: list[Any], folder: Path) -> list[Any]:
    texts = [{"text": f"text {k}", "x": value} for k, value in enumerate(values)]
    corpus = open_texts(texts, fields=["x"])
    table = carried(corpus, [*corpus.passages], keep_texts=False).table
    found: list[Any] = table["field.x"].to_pylist()
    return found


@pytest.mark.parametrize("door", [by_sink, by_corpus])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([datetime.date(2026, 12, 1), None], ["2026-12-01", None]),
        ([datetime.datetime(2026, 12, 1, 9), "noon"], ["2026-12-01 09:00:00", "noon"]),
        ([1, 2.5], [1.0, 2.5]),
        ([np.float32(0.5), np.int64(3)], [0.5, 3.0]),
        ([np.True_, False], [True, False]),
        ([None, None], [None, None]),
        ([2**53 + 1, 0.5], None),
        ([2**63, 1], None),
        ([True, 1], None),
        ([b"\xff", b"a"], None),
        ([{"a": 1}, None], None),
        (["x" * (64 << 10), "y"], ["x" * (64 << 10), "y"]),
        (["x" * ((64 << 10) + 1), "y"], None),
        (["\ud800", "y"], None),
    ],
)
def test_a_value_is_the_same_column_or_refused(
    door: Any, values: list[Any], expected: list[Any] | None, tmp_path: Path
) -> None:
    if expected is None:
        with pytest.raises(InputError, match="field 'x'"):
            door(values, tmp_path)
    else:
        found = door(values, tmp_path)
        assert (found, [*map(type, found)]) == (expected, [*map(type, expected)])


@pytest.mark.parametrize(
    ("given", "kind"),
    [([True, False], "bool"), ([1, 2], "int64"), ([1, 2.5], "float64"), (np.ones(2, "?"), "bool")],
)
def test_values_by_token_keep_their_type(given: Any, kind: str) -> None:
    assert str(token_values("x", given, 2).dtype) == kind
    assert str(token_values("loss_mask", [0, 1.0], 2).dtype) == "bool"
