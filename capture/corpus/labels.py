"""Values by token of the rows of a corpus: lists with one value for each token of a prompt.

A loss mask is one. Each kind becomes one column of the prompts, `token.<name>`: of bools, integers
or numbers with fractions, as its rows have them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from lpp.capture.corpus.fields import LOSS_MASK
from lpp.capture.corpus.passages import NoPromptError
from lpp.store.errors import InputError
from lpp.store.format.prompt_columns import TOKEN_PREFIX

Labels = Mapping[str, Sequence[Any]]
"""Values by token, by the name of their field."""

_ARROW: Final[Mapping[type, pa.DataType]] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
}


def labels_of(fields: Mapping[str, object], names: Sequence[str], tokens: int) -> Labels:
    """The values by token of a row, as far as it has them.

    fields: of the row. tokens: their number. A loss mask may have 0 and 1 for false and true.
    Raises NoPromptError for a list of another length, or with other values than bools and numbers.
    """
    labels = {}
    for name in names:
        values: Any = fields.get(name)
        if hasattr(values, "tolist"):  # an array, a tensor
            values = values.tolist()
        if values is None:
            continue
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise NoPromptError(
                "bad_values", f"field {name!r} is not a list with a value for each token"
            )
        if len(values) != tokens:
            raise NoPromptError(
                "bad_values", f"field {name!r} has {len(values):,} values for {tokens:,} tokens"
            )
        kinds = {type(value) for value in values}
        if name == LOSS_MASK and kinds <= {bool, int, float} and {*values} <= {0, 1}:
            values = [bool(value) for value in values]
        elif name == LOSS_MASK or not (kinds <= {bool} or kinds <= {int, float}):
            allowed = "0 and 1" if name == LOSS_MASK else "numbers, or of true and false,"
            raise NoPromptError("bad_values", f"field {name!r} is not a list of {allowed} alone")
        elif kinds == {int} and not -(2**63) <= min(values) <= max(values) < 2**63:
            raise NoPromptError("bad_values", f"field {name!r} has a value beyond 64 bits")
        elif float in kinds:
            values = [float(value) for value in values]
        labels[name] = values
    return labels


def label_columns(rows: Sequence[Labels]) -> dict[str, pa.Array]:
    """The columns of values by token, ascending by name; null for a row without that kind.

    Raises InputError for a field with bools in some rows and numbers in others.
    """
    columns = {}
    for name in sorted({name for labels in rows for name in labels}):
        lists = [labels.get(name) for labels in rows]
        kinds = {type(value) for values in lists for value in values or ()}
        if bool in kinds and len(kinds) > 1:
            raise InputError(
                f"--token-fields {name}: true and false in some rows, numbers in others. Write all "
                "of it as numbers.",
            )
        kind = float if float in kinds else next(iter(kinds), bool)
        if len(kinds) > 1:
            lists = [None if values is None else [*map(float, values)] for values in lists]
        columns[TOKEN_PREFIX + name] = pa.array(lists, pa.list_(_ARROW[kind]))
    return columns
