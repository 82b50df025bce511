"""A corpus of texts in memory: strings, or records with a text, messages or token ids and other
fields.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from lpp.capture.corpus.fields import Fields
from lpp.capture.corpus.passages import (
    Corpus,
    Passage,
    Refused,
    fingerprint_passages,
)
from lpp.capture.corpus.rows import (
    Value,
    default_field,
    is_list_of_rows,
    listed,
    passage_of,
)
from lpp.store.errors import InputError

DEFAULT_NAME: Final = "texts"
"""Default name of a corpus in memory."""


def open_texts(
    texts: Iterable[Any],
    *,
    name: str = DEFAULT_NAME,
    text_field: str | None = None,
    fields: Sequence[str] = (),
    token_fields: Sequence[str] = (),
) -> Corpus:
    """The corpus of `texts`, read once and kept in memory.

    texts: strings, or records (dicts) whose field `text_field` is the text, the messages or the
    token ids, by default the first of `rows.DEFAULT_FIELDS`; of a data frame or table, the rows.
    fields: those of a record to keep with the prompts. token_fields: those with a value for each
    token. The fingerprint is that of the texts in order. A row whose text is missing or blank is
    set aside and counted, as in a file.

    Raises InputError for a row of another type, and if there is no text at all.
    """
    if not name or os.sep in name:
        raise InputError(f"corpus_name {name!r}: give a name without {os.sep}, such as 'texts'.")
    refused, passages = Refused(), list[Passage]()
    records = iter(_rows(texts))
    first = next(records, None)
    field = text_field or default_field(first if isinstance(first, Mapping) else ())
    carried = Fields(fields, text=field, per_token=token_fields)
    if (fields or token_fields) and not isinstance(first, Mapping):
        name = "fields" if fields else "token_fields"
        raise InputError(
            f"{name}: texts are strings, which have none. Give records, or leave it out."
        )
    for row, (record, place, text) in enumerate(_texts(chain([first], records), field)):
        value, of_row = text, carried.of(record) if isinstance(record, Mapping) else {}
        if isinstance(record, Mapping):
            value = listed(field, text, place)
        passage = passage_of(row, value, of_row, place, refused)
        if passage is not None:
            passages.append(passage)
    if not passages:
        reasons = refused.summary()
        why = f" or set aside: {reasons}" if reasons else ""
        raise InputError(f"texts: every text is empty{why}. Give at least one text.")
    return Corpus(
        name=name,
        revision=None,
        fingerprint=fingerprint_passages(passages),
        rule=f"field {field}" if isinstance(first, Mapping) else "texts",
        passages=passages,
        refused=refused,
        fields=carried,
    )


def _rows(texts: Any) -> Any:
    """The rows of `texts`. Iterating over a data frame would give its columns."""
    if hasattr(texts, "to_pylist"):  # Arrow: a table gives records, a column its values
        return texts.to_pylist()
    if hasattr(texts, "iter_rows"):  # Polars
        return texts.iter_rows(named=True)
    if hasattr(texts, "columns") and hasattr(texts, "to_dict"):  # pandas
        return texts.to_dict("records")
    if isinstance(texts, Mapping):
        splits = ", ".join(map(repr, list(texts)[:5]))
        raise InputError(f"texts is a mapping of {splits}: give one of its values.")
    try:
        return iter(texts)
    except TypeError:
        raise InputError(
            f"texts is {type(texts).__name__}: give a list of strings, records with a field "
            "'text', or the name of a corpus."
        ) from None


def _texts(records: Iterable[Any], field: str) -> Iterator[tuple[Any, str, Value]]:
    """(row, place, text) of every row; text None if it is missing."""
    for number, record in enumerate(records):
        place, text = f"texts[{number}]", record
        if isinstance(record, Mapping):
            if field not in record:
                names = ", ".join(map(repr, record)) or "none"
                raise InputError(
                    f"{place}: no field {field!r}; its fields: {names}. Name one with text_field."
                )
            text = record[field]
        if isinstance(record, Mapping) and hasattr(text, "tolist"):  # an array, a tensor
            text = text.tolist()
        if text is None or (isinstance(text, float) and math.isnan(text)):  # pandas' missing value
            yield record, place, None
        elif isinstance(text, str) or (isinstance(record, Mapping) and is_list_of_rows(text)):
            yield record, place, text
        else:
            raise InputError(f"{place}: {type(text).__name__} instead of a string.")
