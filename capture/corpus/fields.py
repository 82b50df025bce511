"""Fields of a corpus's rows: which are asked for, and which there are.

A reader takes the asked fields of each row as it finds them. They are checked once the prompts are
chosen (`lpp.capture.corpus.carried`): what other rows hold does not matter, and is not kept.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.prompt_columns import FIELD_PREFIX, field_name_problem

ID: Final = "id"
"""The field that comes along wherever a corpus has it."""

TEXT: Final = "text"
"""The column of the text itself."""

_MOST_SEEN: Final = 1000
"""Names of fields that are remembered for a message: each row may bring others."""


def check_names(names: Sequence[str]) -> None:
    """InputError for names that no field may have, and for one that is given twice."""
    for name, times in Counter(names).items():
        problem = field_name_problem(name)
        if problem is None and times > 1:
            problem = f"it is given {times} times"
        if problem is not None:
            shown = name if len(name) <= 40 else name[:40] + "..."
            raise InputError(f"--fields: {shown!r}: {problem}.", kind=ErrorKind.INVALID_VALUE)


def column_name(field: str) -> str:
    """The column of `prompts.arrow` that holds a field of the corpus."""
    return ID if field == ID else FIELD_PREFIX + field


class Fields:
    """The fields that a corpus is asked for. text: the field that is the text, if it is one. some:
    fields that only some rows have, of which a user need not hear.

    InputError where the text is asked for as a field.
    """

    def __init__(
        self, asked: Sequence[str] = (), *, text: str | None = None, some: Sequence[str] = ()
    ) -> None:
        if text in asked:
            raise InputError(
                f"--fields {text}: this field is the text itself. Leave it out; --keep-texts keeps "
                "the texts.",
                kind=ErrorKind.INVALID_VALUE,
            )
        self.asked, self.some = tuple(asked), frozenset(some)
        self.wanted = self.asked if ID in (*asked, text) else (ID, *asked)
        """What to take of a row: the asked ones, and the id."""
        self._seen: dict[str, None] = {}

    @property
    def seen(self) -> tuple[str, ...]:
        """Names of fields that rows have, in the order in which they were met."""
        return tuple(self._seen)

    def note(self, names: Iterable[str]) -> None:
        """Remember that a row has these fields."""
        if self.asked and len(self._seen) < _MOST_SEEN:
            self._seen.update(dict.fromkeys(names))

    def of(self, record: Mapping[str, object]) -> dict[str, object]:
        """The wanted fields that a row has."""
        self.note(record)
        return {name: record[name] for name in self.wanted if name in record}
