"""Tokens as words: bytes put together, names of what has none, and what a terminal has room for."""

import pyarrow as pa

from lpp.analyze.pages.terminal import tail
from lpp.analyze.runs.words import Words
from lpp.store.format.tables import VOCABULARY_SCHEMA


def test_words_put_characters_together_and_name_what_has_no_bytes() -> None:
    spelled = [b"a", "é".encode()[:1], "é".encode()[1:], None]
    table = pa.table([[0, 1, 2, 5], spelled, ["a", "?", "?", "<s>"]], schema=VOCABULARY_SCHEMA)
    words = Words(table)
    assert words.text([5, 0, 1, 2, 0]) == "<s>aéa"
    assert words.text([1, 0]) == "\ufffda"
    assert words.text([3, 9]) == "<3><9>"  # ids that no token has
    assert words.text([]) == ""
    assert Words(None).text([4, 5]) == "<4><5>"


# text


def test_a_long_context_ends_at_the_token() -> None:
    assert tail("字" * 30, 11) == "…" + "字" * 5
    assert tail("\n" * 9, 8) == "…" + "\\n" * 3
