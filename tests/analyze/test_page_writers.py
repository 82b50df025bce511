"""One page in every format: the same numbers, 80 columns, no word broken, no flag lost."""

import json
import re
from dataclasses import replace

import polars as pl
import pytest
from html_words import html_words
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
        data={"numbers": frame()},
    )


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
    document = json.loads(written(shown, "json"))
    assert document["tables"]["numbers"] == frame().to_dicts()
    assert document["flags"] == {"one": "the first flag.", "two": "the second flag."}
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


def test_an_interval_is_shown_where_an_error_of_zero_tells_nothing() -> None:
    low: list[object] = [0.01, 1234.5, None, None]
    high: list[object] = [0.06, 1234.5, None, None]
    rows = frame(value_stderr=[0.0, 0.0, None, None], value_ci_low=low, value_ci_high=high)
    text = written(page(table(rows)), "text")
    assert "[0.01, 0.06] (10)" in text
    assert re.findall(r"±.*", text) == ["±0 (20)"]  # an interval of width 0 tells no more


@pytest.mark.parametrize("names", [{"a": "first model", "b": "second"}, {}])
def test_what_an_element_refers_to_is_on_the_page_once(names: dict[str, str]) -> None:
    text = written(replace(page(table(frame())), runs=RunStyles(names)), "html")
    ids = re.findall(r' id="([^"]+)"', text)
    named = re.findall(r' aria-(?:describedby|labelledby|controls)="([^"]+)"', text)
    assert "help-filter" in named
    assert {name: ids.count(name) for name in named} == dict.fromkeys(named, 1)


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
        assert "Also in --format html" in text


@pytest.mark.parametrize("n_runs", [1, 2, 4])
@pytest.mark.parametrize("short", [False, True])
def test_long_names_are_broken_and_not_cut(n_runs: int, short: bool) -> None:
    names = {f"r{k}": f"SmolLM2-135M-Instruct Q4_1 of a longer name {k}" for k in range(n_runs)}
    heads = ("entropy floor", "of ln V"), ("participation ratio", "dimensions")
    value = Figure("0.3208", "[0.2914, 0.3502]")
    columns = (*heads, ("effective rank", "dimensions"))
    opening = Opening(
        ("It is so.",),
        "final",
        (("run", ""), *columns),
        tuple((Figure(run=run), value, value, value) for run in names),
    )
    rows = pl.DataFrame({"run": [*names], "x": [0.5] * n_runs, "x_stderr": [0.1] * n_runs})
    side = table_of("x", "Beside", rows, {}, first=["run", "x"], compared=short)
    shown = Page(
        title="Names",
        opening=opening,
        sections=(Section("s", "S", tables=(side,)),),
        runs=RunStyles(names),
    )
    text = written(shown, "text")
    legend = f"{'A'}  {names['r0']}"
    assert text.startswith(legend)
    body = text.splitlines()[n_runs:]
    assert max(map(cell_len, body)) <= 80
    assert "…" not in text
    assert text.count("[0.2914, 0.3502]") == 3 * n_runs
