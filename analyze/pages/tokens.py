"""Columns of tokens as text in which every character is seen."""

from typing import Final

import polars as pl

from lpp.analyze.pages.terminal import token

WORDS: Final = ("token", "expected", "came", "expected_a", "expected_b")
"""Columns that hold one token as text."""

TEXTS: Final = ("text_so_far", "question", "chosen_answer", "gold_answer")
"""Columns that hold several tokens as text."""


def shown_words(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with visible spaces and control characters.

    Columns of several tokens keep their spaces, and show the end of a line as ↵.
    """
    words = [name for name in WORDS if name in frame.columns]
    shown = [pl.col(name).map_elements(token, return_dtype=pl.String) for name in words]
    for name in TEXTS:
        if name in frame.columns:
            text = pl.col(name).map_elements(token, return_dtype=pl.String)
            text = text.str.replace_all("␣", " ").str.replace_all("\\n", " ↵ ", literal=True)
            shown.append(text)
    return frame.with_columns(shown)
