"""The built-in corpus: Python's language reference, as Python 3.11 prints it.

`python_reference/articles.txt` has 57 help articles in English, the same on every machine and with
every interpreter (its licence is beside it). Lines of asterisks and tables are removed, wrapped
lines are joined, and the text is cut at sentence ends into passages of about a thousand bytes (200
to 250 tokens).
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from lpp.capture.corpus.passages import Passage

PASSAGE_BYTES: Final = 1000
"""A passage ends at the first sentence end after this: 200 tokens of common tokenizers."""

RULE: Final = f"language reference cut at sentence ends from {PASSAGE_BYTES} bytes on"

_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)*\n")
_DECORATION = re.compile(r"^\s*(?:[*=~^\"-]{3,}|[+|].*|-\[ .* \]-)\s*$")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[\"'*(]*[A-Z])")
_CODE_INDENT: Final = 3


@cache
def articles() -> Mapping[str, str]:
    """The articles, sorted by name."""
    text = (files(__package__) / "python_reference" / "articles.txt").read_text("utf-8")
    return dict(article.split("\n", 1) for article in text.split("\f")[1:])


def pydoc_passages() -> Iterator[Passage]:
    """The passages of the corpus, in order."""
    for row, text in enumerate(cut(articles())):
        yield Passage(row, text)


def sentences(articles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(article, text) of every sentence of prose, headings and list items included."""
    for name, lines in _paragraphs(articles):
        if not _is_code(lines):
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
    for _, lines in _paragraphs(articles):
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


def _paragraphs(articles: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """(article, lines) of every paragraph with text, by name of the article."""
    for name in sorted(articles):
        for paragraph in filter(str.strip, _BLANK_LINES.split(articles[name])):
            lines = paragraph.strip("\n").split("\n")
            if lines := [line for line in lines if not _DECORATION.match(line)]:
                yield name, lines
