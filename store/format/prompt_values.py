"""Values of prompts as columns of `prompts.arrow`: one rule for a corpus, `label` and `sink`.

A field has one type in all prompts, because it becomes one column.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.errors import InputError
from lpp.store.format.prompt_columns import LOSS_MASK, TOKEN_PREFIX, TOKEN_TYPES

MAX_FIELD_BYTES: Final = 64 << 10
"""Longest string of a field in bytes of UTF-8. Fields are for labels, not for texts."""

_ARROW: Final[Mapping[type, pa.DataType]] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}
_KINDS: Final = {
    str: "a string",
    int: "an integer",
    float: "a number with a fraction",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_ALLOWED: Final = {"id": (str, int), "text": (str,)}
"""Types of the fields that are columns of the format; other fields may be of any in `_ARROW`."""


def field_column(
    name: str, values: Sequence[object], places: Sequence[str]
) -> pa.Array | pa.ChunkedArray:
    """One field of every prompt as a column; a column of strings if all values are null.

    values: strings, numbers, or true and false; a date or a time becomes text. Integers among
    numbers with fractions become float64 if that holds them exactly. places: of the prompts, for
    messages. Raises InputError for other values, for strings longer than `MAX_FIELD_BYTES` in
    fields other than `text`, and for values of several types.
    """
    named = [f"field {name!r} of {place}" for place in places]
    values = [_value(name, *pair) for pair in zip(values, named, strict=True)]
    first = {type(value): k for k, value in reversed(list(enumerate(values))) if value is not None}
    if first.keys() == {int, float}:
        del first[int]
        values = [_fraction(*pair) for pair in zip(values, named, strict=True)]
    kinds = sorted(first, key=lambda kind: first[kind])
    if len(kinds) > 1:
        both = " and ".join(f"{_KINDS[kind]} in {places[first[kind]]}" for kind in kinds)
        raise InputError(
            f"field {name!r} is of several types: {both}. Write all of it as strings, or leave it "
            "out."
        )
    kind = kinds[0] if kinds else str
    allowed = _ALLOWED.get(name, (kind,))
    if kind not in allowed:
        raise InputError(
            f"{named[first[kind]]} is {_KINDS[kind]}; `{name}` is "
            f"{' or '.join(_KINDS[kind] for kind in allowed)}. Rename it to take it along as a "
            "field."
        )
    return pa.array(values, _ARROW[kind])


def token_values(name: str, given: Any, tokens: int) -> npt.NDArray[Any]:
    """(tokens,) bool, int64 or float64: the values of one field for each token of a prompt.

    given: a list, an array or a tensor of the CPU. A loss mask may have 0 and 1 for false and true.
    Raises ValueError, which says what is wrong, for another number of values and for others than
    numbers, or true and false.
    """
    values: Any = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError(f"field {name!r} is not a list with a value for each token")
    if len(values) != tokens:
        raise ValueError(f"field {name!r} has {len(values):,} values for {tokens:,} tokens")
    kinds = {type(value) for value in values}
    is_mask = TOKEN_PREFIX + name == LOSS_MASK
    if is_mask and kinds <= {bool, int, float} and {*values} <= {0, 1}:
        return np.array(values, np.bool_)
    if is_mask or not (kinds <= {bool} or kinds <= {int, float}):
        allowed = "0 and 1" if is_mask else "numbers, or of true and false,"
        raise ValueError(f"field {name!r} is not a list of {allowed} alone")
    if kinds == {int} and not -(2**63) <= min(values) <= max(values) < 2**63:
        raise ValueError(f"field {name!r} has a value beyond 64 bits")
    return np.array(
        values, np.float64 if float in kinds else np.int64 if int in kinds else np.bool_
    )


def token_column(name: str, lists: Sequence[npt.NDArray[Any] | None]) -> pa.Array:
    """The column of values by token; null for a prompt without.

    lists: of `token_values`. Raises InputError for bools in some prompts and numbers in others.
    """
    kinds = {values.dtype.kind for values in lists if values is not None and len(values)}
    if "b" in kinds and len(kinds) > 1:
        raise InputError(
            f"field {name!r}: true and false for the tokens of some prompts, numbers for others. "
            "Write all of it as numbers."
        )
    return pa.array(lists, TOKEN_TYPES[2 if "f" in kinds else 1 if "i" in kinds else 0])


def _value(name: str, value: object, place: str) -> object:
    """The checked value; a date or a time becomes text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, datetime.date):  # and datetime
        value = str(value)
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place} has half a surrogate pair at character {error.start}. Correct it, or "
                "leave the field out."
            ) from None
        if size > MAX_FIELD_BYTES and name != "text":
            raise InputError(
                f"{place} takes {size:,} bytes; a field may take {MAX_FIELD_BYTES:,}. Leave it "
                "out; texts have a column of their own (--keep-texts)."
            )
    elif type(value) is int and not -(2**63) <= value < 2**63:
        raise InputError(f"{place} is beyond 64 bits. Write it as a string.")
    elif value is not None and type(value) not in _ARROW:
        if isinstance(value, bytes):
            raise InputError(f"{place} is not text in UTF-8. Leave the field out.")
        what = _KINDS.get(type(value), f"of type {type(value).__name__}")
        raise InputError(
            f"{place} is {what}. A field is a string, a number, or true or false: write the part "
            "that you need as a field of its own."
        )
    return value


def _fraction(value: object, place: str) -> object:
    """An integer as float64, for a column with fractions. Raises InputError unless it is exact."""
    if type(value) is not int:
        return value
    if float(value) != value:
        raise InputError(
            f"{place} is {value}, which float64 does not hold exactly, and other rows have "
            "fractions. Write all of it as strings."
        )
    return float(value)
