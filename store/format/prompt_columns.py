"""More columns of `prompts.arrow`, SPEC.md section 5: what a prompt carries beside its tokens.

A run has those that its writer was given. All are nullable. `PROMPT_COLUMNS` declares the ones that
the format names; a field of the corpus is `field.<name>`, and `token.<name>` has a list with a
value for each token of the prompt.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

FIELD_PREFIX: Final = "field."
"""Begins the column of a field of the corpus, so that no field meets a column of the format."""

FIELD_TYPES: Final = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
"""Types that the column of a field may have."""

TOKEN_PREFIX: Final = "token."
"""Begins the column of values by token."""

LOSS_MASK: Final = "token.loss_mask"
"""Whether a model trained on the prompt should predict the token: that of the assistant's turns."""

TOKEN_TYPES: Final = (pa.list_(pa.bool_()), pa.list_(pa.int64()), pa.list_(pa.float64()))
"""Types that a column of values by token may have."""

MAX_FIELD_NAME_BYTES: Final = 200
"""Longest name of a field, in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class PromptColumn:
    """One column that the format names, and the types that it may have."""

    name: str
    types: tuple[pa.DataType, ...]
    meaning: str


PROMPT_COLUMNS: Final = (
    PromptColumn("id", (pa.string(), pa.int64()), "the corpus's own id of the row"),
    PromptColumn("text", (pa.string(),), "the text"),
    PromptColumn("n_given", (pa.int32(),), "tokens of the text; the model wrote those that follow"),
    PromptColumn(
        "written_logprob",
        (pa.list_(pa.float32()),),
        "ln p of each token that the model wrote, when it wrote it",
    ),
    PromptColumn("branch_of", (pa.int32(),), "prompt that this one branches off"),
    PromptColumn("branch_at", (pa.int32(),), "tokens of that prompt that come before this one"),
)
"""Every optional column but fields of the corpus and values by token, in the order in which they
are written."""

CONTINUATION_COLUMNS: Final = ("n_given", "written_logprob")
"""Columns of every run with a continuation, and of no other run; without nulls."""

BRANCH_COLUMNS: Final = ("branch_of", "branch_at")
"""Columns of every run whose prompts share beginnings, and of no other run. Both are null for
a prompt that is no branch."""

_TYPES: Final = {column.name: column.types for column in PROMPT_COLUMNS}


def field_name_problem(name: str) -> str | None:
    r"""Why `name` may not name a field; None when it may.

    >>> field_name_problem("label")
    >>> field_name_problem("a\tb")
    'it holds a character that does not print'
    """
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= MAX_FIELD_NAME_BYTES:
        return f"it takes {size} bytes, should be 1 to {MAX_FIELD_NAME_BYTES}"
    return None if name.isprintable() else "it holds a character that does not print"


def is_prompt_column(name: str) -> bool:
    """Whether the format gives a column of `prompts.arrow` with this name a meaning."""
    return name in _TYPES or name.startswith((FIELD_PREFIX, TOKEN_PREFIX))


def token_columns(columns: pa.Schema) -> tuple[str, ...]:
    """Names of the columns with a value for each token, ascending."""
    return tuple(sorted(name for name in columns.names if name.startswith(TOKEN_PREFIX)))


def column_problems(columns: pa.Schema) -> list[str]:
    """Every reason `columns` may not follow those of `PROMPTS_SCHEMA`."""
    return [problem for name in dict.fromkeys(columns.names) for problem in _of(name, columns)]


def _of(name: str, columns: pa.Schema) -> Iterable[str]:
    shown = name if name.isprintable() else ascii(name)
    if not is_prompt_column(name):
        yield f"column {shown} is none of the format"
        return
    if columns.names.count(name) > 1:
        yield f"column {shown} is there {columns.names.count(name)} times"
        return
    prefix, others = (
        (TOKEN_PREFIX, TOKEN_TYPES)
        if name.startswith(TOKEN_PREFIX)
        else (FIELD_PREFIX, FIELD_TYPES)
    )
    if name not in _TYPES and (problem := field_name_problem(name.removeprefix(prefix))):
        yield f"column {shown}: not a name of a field: {problem}"
    types = TOKEN_TYPES[:1] if name == LOSS_MASK else _TYPES.get(name, others)
    field = columns.field(name)
    if not field.nullable or field.type not in types:
        kind = f"{field.type}{'' if field.nullable else ' not null'}"
        yield f"column {shown} is {kind}, should be {' or '.join(map(str, types))}"
