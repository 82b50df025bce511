"""The rule of `-o FILE` and `--format`, which every command follows."""

from pathlib import Path

import click
import pytest

from lpp.store.terminal.output import chosen_format

FORMATS = ("table", "csv", "json")


def test_ending_of_the_file_chooses_the_format() -> None:
    for name, form in (("x.csv", "csv"), ("X.JSON", "json"), ("x.txt", "table"), ("x", "table")):
        assert chosen_format(None, Path(name), FORMATS) == form
    assert chosen_format(None, None, FORMATS) == "table"
    assert chosen_format(None, Path("x.svg"), FORMATS, ("svg",)) == "table"


def test_ending_of_no_format_is_refused_unless_the_format_is_given() -> None:
    with pytest.raises(click.UsageError) as caught:
        chosen_format(None, Path("x.pdf"), FORMATS, ("svg",))
    assert caught.value.exit_code == 2
    for part in (".pdf", ".txt, .csv, .json, .svg", "--format"):
        assert part in str(caught.value)
    assert chosen_format("csv", Path("x.pdf"), FORMATS) == "csv"
