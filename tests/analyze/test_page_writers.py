"""One page in every format: the same numbers, 80 columns, no word broken, no flag lost."""

import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.page import Figure, Opening, Page, Section
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Code, Flag, Ref, Run, number
from lpp.analyze.pages.write import written
from lpp.sql.schema.columns import Column

HOSTILE = "<b>a|b</b>\x1b[31m`"
NUMBERS = [0.0123456, 1234.5, 0.0000373, -0.5]


def frame(**more: list[object]) -> pl.DataFrame:
    columns: dict[str, list[object]] = {
        "run": ["a", "a", "b", "b"],
        "site": ["embed", "block.1", "embed", HOSTILE],
        "value": [*NUMBERS],
        "value_stderr": [0.001, 12.3, None, 0.25],
        "value_prefix": [10, 20, None, 40],
        "share": [0.5, 0.25, None, 1.0],
        "share_ci_low": [0.4, None, None, 0.99],
        "share_ci_high": [0.6, None, None, 1.0],
        "flags": [["one"], [], ["one", "two"], []],
    }
    return pl.DataFrame(columns | more)


def table(rows: pl.DataFrame, **more: object) -> Table:
    declared = {"value": Column("value", "DOUBLE", "what it means", "nats")}
    return table_of(
        *("numbers", "All numbers", rows, declared),
        first=rows.columns,
        styles={"share": "hundredths"},
        key=("run", "site"),
        **more,  # type: ignore[arg-type]
    )


def page(*tables: Table) -> Page:
    return Page(
        title="A page",
        opening=Opening(
            (Run("a"), " is ", Ref("0.25", "numbers"), " above ", Run("b", short=True), "."),
            "at final",
            (("run", ""), ("value", "nats")),
            ((Figure(run="a"), Figure("0.5", "[0.4, 0.6]")),),
            ((Flag("one"), " holds."),),
        ),
        findings=(("Run it: ", Code(f"echo {HOSTILE}")),),
        sections=(Section("s", "A section", "How to read it.", (), tables),),
        meanings={"one": "the first flag.", "two": "the second flag."},
        runs=RunStyles({"a": "first model", "b": HOSTILE}),
        next=("lpp-sql STORE",),
        document={"numbers": NUMBERS},
        csv=frame(),
    )


class Words(HTMLParser):
    """The text of a page, without its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def html_words(text: str) -> tuple[str, set[str]]:
    reader = Words()
    reader.feed(text)
    return " ".join(" ".join(reader.words).split()), reader.tags


def test_every_writer_has_every_number_and_flag() -> None:
    shown = page(table(frame()))
    texts = {form: written(shown, form) for form in ("text", "md", "html")}
    texts["html"] = html_words(texts["html"])[0]
    for form, text in texts.items():
        for value in NUMBERS:
            assert number(value) in text, form
        for words in ("0.50", "0.25", "1.00", "first model", "the first flag", "the second flag"):
            assert words in text, (form, words)
        assert "± 0.001" in text or "±0.001" in text, form
        assert "[0.99, 1.00" in text, form
        assert "\x1b" not in text, form
    assert json.loads(written(shown, "json")) == {"numbers": NUMBERS}
    again = pl.read_csv(written(shown, "csv").encode())
    assert again["value"].to_list() == NUMBERS
    assert again["flags"].to_list() == ["one", "", "one two", ""]


def test_names_are_text_and_never_markup() -> None:
    shown = page(table(frame()))
    words, tags = html_words(written(shown, "html"))
    assert "<b>a|b</b>" in words
    assert "b" not in tags
    md = written(shown, "md")
    assert "<b>" not in md.replace("`", "") or "&lt;b&gt;" in md
    for line in md.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in {3, 6}, line


def test_what_is_not_brief_is_shown_with_all_and_always_in_a_browser() -> None:
    shown = page(table(frame()), table(frame(), brief=False))
    for form in ("text", "md"):
        short, whole = (written(shown, form, everything=every) for every in (False, True))
        assert whole.count("All numbers") == short.count("All numbers") + 1, form
    assert "--all" in written(shown, "text")
    assert "--all" not in written(shown, "text", everything=True)


def test_an_empty_section_has_no_heading() -> None:
    shown = page(table(frame().clear(), missing="there are none"))
    for form in ("text", "md", "html"):
        assert "A section" not in written(shown, form), form


@pytest.mark.parametrize("columns", [0, 3, 8, 20])
def test_a_terminal_has_80_columns_and_keeps_flags(columns: int) -> None:
    more: dict[str, list[object]] = {}
    for place in range(columns):
        more |= {f"x{place}": [1234.5678] * 4, f"x{place}_stderr": [0.123] * 4}
    rows = frame(**more).select("run", "site", *more, "value", "flags")
    text = written(page(table(rows)), "text")
    assert max(map(cell_len, text.splitlines())) <= 80
    assert "…" not in text  # rich cuts what does not fit
    assert "¹²" in text
    if columns == 20:
        assert "--format csv" in text


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=90), min_size=4, max_size=4))
def test_no_text_makes_a_line_longer(texts: list[str]) -> None:
    rows = frame(question=[*texts]).select("run", "value", "question", "flags")
    text = written(page(table(rows)), "text")
    lines = text.split("\n")
    assert max(map(cell_len, lines)) <= 80
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
