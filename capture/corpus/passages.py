"""Passages, corpora, and the fingerprints that identify them.

Fingerprints are xxh3_128 over UTF-8 bytes, each text preceded by its length as eight
little-endian bytes, so ["ab", "c"] and ["a", "bc"] differ. They do not depend on a model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import xxhash

from lpp.capture.corpus.fields import Fields
from lpp.store.format.quarantine import TextSetAside, texts_table


class NoPromptError(Exception):
    """A row becomes no prompt: the reason in a word, and in words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class GivenTokens:
    """Tokens of a prompt that were made elsewhere, not by tokenising its text as a whole."""

    ids: tuple[int, ...]
    """At least one, special tokens included."""
    dropped: int = 0
    """Tokens that were dropped from the beginning of the text."""
    branch_of: int | None = None
    """Row of an earlier passage; the model reads the first tokens of its prompt before these."""
    branch_at: int = 0
    """Number of those first tokens."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that a chat template turns into the text of a prompt."""

    messages: Sequence[Mapping[str, Any]]
    """Each with `role` and `content` first; at least one is the assistant's."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Descriptions of the functions that the assistant may call."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One text that may become a prompt, and its place in the corpus."""

    source_row: int
    """Row of the corpus, from 0. Rows without text are counted."""
    text: str
    """Of a conversation: its messages as JSON; of tokens: their ids with spaces between them.
    Neither depends on a model, so that fingerprints do not either."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """Requested fields of the row, as they were read."""
    location: str = field(default="", compare=False)
    """Where the row is, such as "a.jsonl, line 3"; empty if only its number is known."""
    given: "GivenTokens | None" = None
    """Its tokens, if they were made elsewhere. None: the tokenizer makes them."""
    conversation: Conversation | None = None
    """Its messages. None: its text is read as it is."""

    @property
    def is_text(self) -> bool:
        """Whether the tokenizer reads its text as it is."""
        return self.given is None and self.conversation is None

    @property
    def branch_of(self) -> int | None:
        """Row of the passage that it branches off, if it does."""
        return None if self.given is None else self.given.branch_of

    @property
    def where(self) -> str:
        """Its location, for a message."""
        return self.location or f"row {self.source_row} of the corpus"


@dataclass(frozen=True, slots=True)
class Streamed:
    """Passages that are read again by each iteration, so that not all are in memory."""

    read: Callable[[], Iterator[Passage]]

    def __iter__(self) -> Iterator[Passage]:
        """A fresh pass over the passages, in corpus order."""
        return self.read()


MOST_LISTED: Final = 100_000
"""Most texts that are listed as set aside. A corpus may have any number of empty rows."""


class Refused:
    """Texts that were set aside while a corpus was read. Reading it again adds nothing."""

    def __init__(self) -> None:
        self._texts: dict[int, TextSetAside] = {}

    def __contains__(self, source_row: int) -> bool:
        return source_row in self._texts

    def add(self, source_row: int, reason: str, detail: str) -> None:
        """Note a row of the corpus and why it becomes no prompt."""
        if len(self._texts) < MOST_LISTED:
            text = TextSetAside(source_row=source_row, reason=reason, detail=detail)
            self._texts[source_row] = text

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Until the block ends, the corpus is read and what it sets aside is not noted."""
        noted = self._texts.copy()
        try:
            yield
        finally:
            self._texts = noted

    def why(self, source_row: int) -> str:
        """Why a row becomes no prompt: the reason, then in words; empty if it was not noted."""
        text = self._texts.get(source_row)
        return "" if text is None else f"{text.reason}, {text.detail}"

    def table(self) -> pa.Table:
        """(n, 3), `lpp.store.format.quarantine.TEXTS_SCHEMA`."""
        return texts_table(self._texts.values())

    def summary(self) -> str:
        """Count and first example of each reason, for a message; empty rows are left out."""
        kinds: dict[str, list[TextSetAside]] = {}
        for text in self._texts.values():
            kinds.setdefault(text.reason, []).append(text)
        kinds.pop("empty", None)
        return "; ".join(
            f"{len(texts)} {reason}, the first {texts[0].detail}"
            for reason, texts in sorted(kinds.items())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A named sequence of texts, with its fingerprint."""

    name: str
    """A known name, or the name of the file or folder without its path."""
    revision: str | None
    """Commit of the dataset on the hub; None for local text."""
    fingerprint: str
    """xxh3_128 (32 hex digits) of the files' contents and names, or of the passages."""
    rule: str
    """How a row becomes a text, for the plan."""
    files: tuple[str, ...] = ()
    """Files that were read, relative to the corpus; empty unless the corpus is local files."""
    passages: Iterable[Passage]
    """In corpus order; can be iterated any number of times."""
    refused: Refused = field(default_factory=Refused)
    """Texts that were set aside so far while `passages` was read."""
    fields: Fields = field(default_factory=Fields)
    """The requested fields."""
    fields_of: Callable[[Passage], Mapping[str, object]] = lambda passage: passage.fields
    """The fields `to_read` of a passage's row."""


def fingerprint_texts(texts: Iterable[str]) -> str:
    """xxh3_128 of the texts in order: 32 hex digits. One pass, constant memory."""
    digest = xxhash.xxh3_128()
    for text in texts:
        raw = text.encode("utf-8")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def fingerprint_passages(passages: Iterable[Passage]) -> str:
    """The fingerprint of a corpus that is read as rows rather than files."""
    return fingerprint_texts(passage.text for passage in passages)


def prompt_set_fingerprint(passages: Iterable[Passage]) -> str:
    """Fingerprint of the selected texts in order; independent of source rows and models.

    Runs with equal fingerprints read the same texts, whatever their tokenizers. Only such runs can
    be compared (METRICS: `different_prompts`).
    """
    return fingerprint_passages(passages)
