"""Further columns of the prompts: `id`, `text` and `field.<name>`.

Values that are no column (`lpp.store.format.prompt_values`) are refused before the model loads,
and the message names the row. An `id` of mixed type is left out, unless the user asked for it.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from lpp.capture.corpus.fields import ID, TEXT, column_name
from lpp.capture.corpus.files import MAX_PASSAGE_BYTES
from lpp.capture.corpus.passages import Corpus, Passage
from lpp.store.errors import InputError, Mistakes
from lpp.store.format.prompt_columns import FIELD_PREFIX
from lpp.store.format.prompt_values import field_column

_MOST_LISTED: Final = 20


@dataclass(frozen=True, kw_only=True)
class Carried:
    """The further columns of the prompts, one row per chosen passage."""

    table: pa.Table
    """(n, k): `id`, `text` and `field.<name>`, as far as they exist."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, a line each."""

    def lines(self) -> list[str]:
        """Names of the columns, for a user, then the remarks."""
        shown = [name.removeprefix(FIELD_PREFIX) for name in self.table.column_names]
        return [f"with {', '.join(shown)}"] * bool(shown) + list(self.notes)

    def of(self, kept: Sequence[bool]) -> "Carried":
        """The rows of the passages for which `kept` is true."""
        if not self.table.num_columns:  # without columns Arrow has no number of rows
            return self
        return replace(self, table=self.table.filter(pa.array(kept, pa.bool_())))

    def beside(self, prompts: pa.Table) -> pa.Table:
        """`prompts` with these columns appended."""
        for field in self.table.schema:
            prompts = prompts.append_column(field, self.table[field.name])
        return prompts


def carried(corpus: Corpus, passages: Sequence[Passage], *, keep_texts: bool) -> Carried:
    """The further columns of `passages`: id if any has one, texts if wanted, the requested fields.

    Raises InputError for a field that no passage has, and for values of mixed type or too long.
    """
    rows = [corpus.fields_of(passage) for passage in passages]
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    notes = []
    if ID not in corpus.fields.requested and any(row.get(ID) is not None for row in rows):
        try:
            columns[ID] = _column(ID, corpus, passages, rows)
        except InputError as error:
            notes.append(f"without the corpus's id: {str(error).partition('. ')[0]}")
    if keep_texts:
        columns[TEXT] = _texts(passages)
    mistakes = Mistakes()
    for name in corpus.fields.requested:
        with mistakes.gather():
            column = _column(name, corpus, passages, rows)
            columns[column_name(name)] = column
            if column.null_count and name not in corpus.fields.optional:
                notes.append(f"{name} is null in {column.null_count} of {len(rows)} prompts")
    for name in corpus.fields.per_token:
        with mistakes.gather():
            if not any(name in row for row in rows):
                raise _no_field(name, corpus, "--token-fields")
    mistakes.raise_any()
    columns = {ID: columns.pop(ID), **columns} if ID in columns else columns
    schema = pa.schema([(name, column.type) for name, column in columns.items()])
    return Carried(table=pa.table(columns, schema=schema), notes=tuple(notes))


def unseen(corpus: Corpus) -> Iterator[InputError]:
    """A refusal of each requested field that no row has, as far as rows were read."""
    options = {"--fields": corpus.fields.requested, "--token-fields": corpus.fields.per_token}
    for option, names in options.items():
        for name in names:
            if name not in corpus.fields.seen:
                yield _no_field(name, corpus, option)


def _texts(passages: Sequence[Passage]) -> pa.Array | pa.ChunkedArray:
    for passage in passages:
        if (size := len(passage.text.encode())) > MAX_PASSAGE_BYTES:
            raise InputError(
                f"--keep-texts: {passage.where} has a text of {size >> 20} MiB; "
                f"{MAX_PASSAGE_BYTES >> 20} MiB are the most. Cut it, or leave --keep-texts out."
            )
    return pa.array([passage.text for passage in passages], pa.string())


def _column(
    name: str,
    corpus: Corpus,
    passages: Sequence[Passage],
    rows: Sequence[Mapping[str, object]],
) -> pa.Array | pa.ChunkedArray:
    if not any(name in row for row in rows):
        raise _no_field(name, corpus)
    values = [row.get(name) for row in rows]
    return field_column(name, values, [passage.where for passage in passages])


def _no_field(name: str, corpus: Corpus, option: str = "--fields") -> InputError:
    seen = corpus.fields.seen
    near = difflib.get_close_matches(name, seen, n=1)
    listed = ", ".join(map(repr, seen[:_MOST_LISTED])) + ", ..." * (len(seen) > _MOST_LISTED)
    return InputError(
        f"Corpus {corpus.name}: no chosen row has a field {name!r}; there are: {listed or 'none'}."
        + (f" Did you mean {option} {near[0]}?" if near else "")
    )
