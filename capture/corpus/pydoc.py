"""The built-in corpus: Python's language reference, which comes with every interpreter.

`pydoc_data.topics` has about eighty help articles in English. A third are excerpts of longer ones
and are left out, because a random sample could contain the same text twice. Lines of asterisks and
tables are removed, wrapped lines are joined, and the text is cut at sentence ends into passages of
about a thousand bytes (200 to 250 tokens).

The articles, and so the fingerprint, change with each Python release: compare models with the same
interpreter.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from lpp.capture.corpus.passages import Passage
from lpp.store.errors import ErrorKind, MachineError

PASSAGE_BYTES: Final = 1000
"""A passage ends at the first sentence end after this: 200 tokens of common tokenizers."""

EXCERPT_SHARE: Final = 0.5
"""An article that shares this much of its text with longer ones is an excerpt. Observed shares are
below 0.1 or above 0.75."""

RULE: Final = f"language reference cut at sentence ends from {PASSAGE_BYTES} bytes on"

_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)*\n")
_DECORATION = re.compile(r"^\s*(?:[*=~^\"-]{3,}|[+|].*|-\[ .* \]-)\s*$")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[\"'*(]*[A-Z])")
_CODE_INDENT: Final = 3


def topics() -> Mapping[str, str]:
    """The articles of this interpreter, by name. Raises MachineError if it has none."""
    try:
        from pydoc_data.topics import topics as articles
    except ImportError:
        raise MachineError(
            "The built-in corpus needs the module pydoc_data, and this Python came without it. "
            "Use a file instead: --corpus texts.jsonl (or .parquet, .txt).",
            kind=ErrorKind.NO_PACKAGE,
        ) from None
    return articles


def pydoc_passages() -> Iterator[Passage]:
    """The passages of this interpreter, in order. Raises MachineError if it has none."""
    for row, text in enumerate(cut(topics())):
        yield Passage(row, text)


def sentences(articles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(article, text) of every sentence of prose, headings and list items included."""
    for name, paragraphs in without_excerpts(articles).items():
        for paragraph in paragraphs:
            lines = [line for line in paragraph.split("\n") if not _DECORATION.match(line)]
            if lines and not _is_code(lines):
                yield from ((name, part) for part in _split(lines)[1])


def cut(articles: Mapping[str, str], passage_bytes: int = PASSAGE_BYTES) -> Iterator[str]:
    """Texts of at least `passage_bytes` UTF-8 bytes each; a shorter remainder is dropped.

    A passage may run from the end of one article into the next.
    """
    pending = ""
    for separator, piece in _pieces(articles):
        pending = pending + separator + piece if pending else piece
        if len(pending.encode("utf-8")) >= passage_bytes:
            yield pending
            pending = ""


def _pieces(articles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(separator before it, text) of every sentence of prose and every line of code."""
    for paragraphs in without_excerpts(articles).values():
        for paragraph in paragraphs:
            lines = [line for line in paragraph.split("\n") if not _DECORATION.match(line)]
            if not lines:
                continue
            between, parts = _split(lines)
            for index, part in enumerate(parts):
                yield ("\n\n" if index == 0 else between), part


def _split(lines: list[str]) -> tuple[str, list[str]]:
    """(separator between the parts of a paragraph, parts)."""
    if _is_code(lines):
        return "\n", [line.rstrip() for line in lines]
    return " ", _SENTENCE_END.split(" ".join(line.strip() for line in lines))


def _is_code(lines: list[str]) -> bool:
    return len(lines[0]) - len(lines[0].lstrip()) >= _CODE_INDENT


def without_excerpts(articles: Mapping[str, str]) -> dict[str, list[str]]:
    """Paragraphs by article, sorted by name, without articles that are excerpts of longer ones.

    Of two copies, the one in the longer article is kept, so the result depends on the texts alone.
    """
    seen: set[str] = set()
    kept: dict[str, list[str]] = {}
    for name in sorted(articles, key=lambda name: (-len(articles[name]), name)):
        paragraphs = [p.strip("\n") for p in _BLANK_LINES.split(articles[name]) if p.strip()]
        repeated = sum(len(p) for p in paragraphs if p in seen)
        if repeated < EXCERPT_SHARE * sum(len(p) for p in paragraphs):
            kept[name] = paragraphs
            seen.update(paragraphs)
    return dict(sorted(kept.items()))
