"""Texts in memory given to `lpp.capture.capture`: which are used, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from loaded_models import SETTINGS, TEXTS, Load

from lpp.capture import capture
from lpp.capture.corpus.open import open_texts
from lpp.store.errors import ConflictError, InputError


@pytest.mark.slow
def test_texts_in_memory_are_all_used_in_order(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    run = capture(
        load(),
        tiny_tokenizer,
        ["fox", "", "a dog", None, "quick"],
        store=tmp_path / "s",
        corpus_name="animals",
        **SETTINGS,
    )
    plan = run.plan
    assert (plan.corpus.name, plan.corpus.selection["text"]) == ("animals", "texts")
    assert (plan.prompts.count, plan.corpus.selection["min_bytes"]) == (3, 0)
    assert run.prompts()["source_row"].to_pylist() == [0, 2, 4]
    ids = [tiny_tokenizer(text)["input_ids"] for text in ("fox", "a dog", "quick")]
    assert run.prompts()["token_ids"].to_pylist() == ids
    assert run.set_aside().texts == {"empty": 2}


@pytest.mark.slow
def test_fields_of_records_come_along(load: Load, tiny_tokenizer: Any, tmp_path: Path) -> None:
    records = [{"text": "fox", "id": 7, "label": "a"}, {"text": "a dog", "id": 8, "label": None}]
    model = load()
    given: dict[str, Any] = {"store": tmp_path / "s", "fields": ["label"], **SETTINGS}
    run = capture(model, tiny_tokenizer, records, keep_texts=True, **given)
    carried = run.prompts("id", "field.label", "text").drop_columns(run.prompts().column_names)
    assert carried.to_pydict() == {
        "id": [7, 8],
        "field.label": ["a", None],
        "text": ["fox", "a dog"],
    }
    assert run.vocabulary() is not None
    with pytest.raises(InputError, match=r"fields: texts are strings, which have none"):
        capture(model, tiny_tokenizer, ["fox", "a dog"], **given)
    with pytest.raises(InputError, match=r"'labels'.*'label'"):
        capture(model, tiny_tokenizer, records, **given | {"fields": "labels"})
    relabelled = [{**record, "label": "b"} for record in records]
    with pytest.raises(ConflictError, match=r"other values of field\.label in 2 prompts"):
        capture(model, tiny_tokenizer, relabelled, **given)
    assert capture(model, tiny_tokenizer, records, **given).id == run.id


def test_every_kind_of_texts_is_the_same_corpus() -> None:
    records = [{"text": text, "label": n} for n, text in enumerate(TEXTS)]
    fingerprints = [
        open_texts(texts).fingerprint
        for texts in (
            TEXTS,
            tuple(TEXTS),
            (text for text in TEXTS),
            np.array(TEXTS),
            pd.Series(TEXTS),
            pl.Series(TEXTS),
            pa.chunked_array([TEXTS]),
            records,
            pd.DataFrame(records),
            pl.DataFrame(records),
            pa.Table.from_pylist(records),
            datasets.Dataset.from_list(records),
            datasets.Dataset.from_list(records)["text"],
        )
    ]
    assert len(set(fingerprints)) == 1
    assert open_texts(TEXTS[::-1]).fingerprint != fingerprints[0]
    named = open_texts([{"body": text} for text in TEXTS], text_field="body")
    assert (named.fingerprint, named.rule) == (fingerprints[0], "field body")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "every text is empty"),
        (["", " "], "every text is empty"),
        (
            [{"body": "fox"}],
            r"texts\[0\]: no field 'text'; its fields: 'body'. Name one with text_f",
        ),
        (["fox", 3], r"texts\[1\]: int instead of a string"),
        ({"train": ["fox"]}, "a mapping of 'train': give one of its values"),
        (7, "texts is int: give a list of strings"),
        ([b"fox"], "bytes instead of a string"),
    ],
)
def test_texts_of_another_kind_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_texts(texts)


@pytest.mark.slow
def test_fewer_texts_are_taken_as_the_command_takes_them(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    few = {"store": tmp_path / "s", **SETTINGS}
    longer = capture(load(), tiny_tokenizer, TEXTS, min_bytes=60, **few)
    assert longer.prompts()["source_row"].to_pylist() == [2, 3, 4, 7, 8, 9]
    drawn = capture(load(), tiny_tokenizer, TEXTS, prompts=4, seed=42, **few)
    assert sorted(drawn.prompts()["source_row"].to_pylist()) != [0, 1, 2, 3]
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"corpus_revision": "main"}, "corpus_revision: it is for a corpus by name"),
        ({"corpus_name": "a/b"}, "corpus_name 'a/b'"),
    )
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            capture(load(), tiny_tokenizer, TEXTS, **few, **options)


def test_the_default_of_a_file_says_how_many_texts_it_leaves(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("\n\n".join(["the dog and the fox"] * 120))
    arguments: Any = (tiny_folder("gpt2"), tmp_path / "t.txt")
    how: Any = {"store": tmp_path / "store", "context": 4, "sites": "final"}
    with pytest.warns(UserWarning, match="takes 100 of 120 texts; prompts='all'"):
        assert capture(*arguments, **how).n_prompts == 100
    assert capture(*arguments, prompts="all", **how).n_prompts == 120
    with pytest.warns(UserWarning, match="120 of 120 texts .* prompts=130"):
        assert capture(*arguments, prompts=130, **how).n_prompts == 120
    with pytest.raises(InputError, match="an integer or 'all'"):
        capture(*arguments, prompts="some", **how)  # type: ignore[call-overload]
