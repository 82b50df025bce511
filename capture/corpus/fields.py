"""Fields of a corpus's rows: which ones the user requests, and which ones exist.

A reader takes the requested fields of each row as they are. Only the fields of chosen prompts are
checked and kept (`lpp.capture.corpus.carried`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lpp.store.errors import InputError
from lpp.store.format.prompt_columns import FIELD_PREFIX, field_name_problem

ID: Final = "id"
"""The field that is kept whenever a corpus has it."""

TEXT: Final = "text"
"""The column of the text itself."""

LOSS_MASK: Final = "loss_mask"
"""The values by token that are kept wherever rows of token ids have them."""

TOOLS: Final = "tools"
"""The field beside messages that describes functions."""

_MOST_SEEN: Final = 1000
"""Most field names remembered for a message: each row may have others."""


def check_names(names: Sequence[str], option: str = "--fields") -> None:
    """Raise InputError for names that are not allowed or given twice."""
    for name, times in Counter(names).items():
        problem = field_name_problem(name)
        if problem is None and times > 1:
            problem = f"it is given {times} times"
        if problem is not None:
            shown = name if len(name) <= 40 else name[:40] + "..."
            raise InputError(f"{option}: {shown!r}: {problem}.")


def column_name(field: str) -> str:
    """The column of `prompts.arrow` that holds a field of the corpus."""
    return ID if field == ID else FIELD_PREFIX + field


class Fields:
    """The fields requested of a corpus.

    text: the field that is the text, if the text is a field. optional: fields that may be null in
    some rows without a remark. per_token: those with a list of values, one for each token. Raises
    InputError if `requested` contains the text.
    """

    def __init__(
        self,
        requested: Sequence[str] = (),
        *,
        text: str | None = None,
        optional: Sequence[str] = (),
        per_token: Sequence[str] = (),
    ) -> None:
        if text in requested:
            raise InputError(
                f"--fields {text}: this field is the text itself. Leave it out; --keep-texts keeps "
                "the texts."
            )
        self.requested, self.optional = tuple(requested), frozenset(optional)
        self.per_token = tuple(per_token)
        beside = () if text in (None, TEXT) else (TOOLS, LOSS_MASK)
        of_row = requested if ID in (*requested, text) else (ID, *requested)
        self.to_read = tuple(dict.fromkeys((*of_row, *per_token, *beside)))
        """The fields to read: those requested, the id, and what messages and token ids come
        with."""
        self._seen: dict[str, None] = {}

    @property
    def seen(self) -> tuple[str, ...]:
        """Names of the fields that rows have, in order of first occurrence."""
        return tuple(self._seen)

    def note(self, names: Iterable[str]) -> None:
        """Remember that a row has these fields."""
        if (self.requested or self.per_token) and len(self._seen) < _MOST_SEEN:
            self._seen.update(dict.fromkeys(names))

    def of(self, record: Mapping[str, object]) -> dict[str, object]:
        """The fields `to_read` of a row, as far as it has them."""
        self.note(record)
        return {name: record[name] for name in self.to_read if name in record}
