"""Tables of the report in a browser: columns, order, filter, CSV, and the SQL of each number."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from opened_page import OpenPage
from report_tables import database, make_store, run_id

from lpp.analyze.report.answers import ask
from lpp.analyze.report.queries import PROFILES
from lpp.analyze.report.report import write_report
from lpp.sql import connect


def column(page: Any, table: str, place: int) -> list[str]:
    """Texts of one column of the page of a table that is shown, without the intervals."""
    cells = page.locator(f"#table-{table} tbody tr > :nth-child({place})").all()
    return [
        (cell.locator("a").first if cell.locator("a").count() else cell).inner_text()
        for cell in cells
    ]


def test_other_columns_are_there_on_demand(open_page: OpenPage, pages: dict[int, Path]) -> None:
    page = open_page(pages[2]).page
    heads = page.locator("#table-profiles thead th:visible")
    few = heads.count()
    button = page.locator("#table-profiles .all")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert heads.count() > few + 3
    cells = page.locator("#table-profiles tbody tr").first.locator(":scope > *")
    assert cells.count() == heads.count()
    button.click()
    assert cells.count() == few  # a cell that is not shown is not made
    button.click()
    scrolled = page.locator("#table-profiles .scroll")
    head = page.locator("#table-profiles tbody th").first
    before = head.bounding_box()["x"]
    scrolled.evaluate("e => { e.scrollLeft = 200; }")
    assert head.bounding_box()["x"] == before  # it stays in sight


def test_a_table_is_saved_as_csv_that_no_spreadsheet_runs(
    open_page: OpenPage, tmp_path: Path
) -> None:
    formula = '=HYPERLINK("http://x"),-1'
    tables = database([formula, "@b", "c"])
    (path,) = write_report(str(make_store(tmp_path / "store", tables)), tmp_path / "r.html")
    opened = open_page(path, accept_downloads=True)
    page = opened.page
    for table, rows in (("profiles", 3), ("spectra", 240)):
        frame = pl.read_csv(_saved(page, table))
        assert len(frame) == rows  # of every page of the table
        assert {f"'{run_id(0, formula)}", f"'{run_id(1, '@b')}"} < {*frame["run"]}
    answer = ask(tmp_path / "store", [PROFILES])[PROFILES.name].frame
    csv = pl.read_csv(_saved(page, "profiles"))
    assert {*csv.columns} == {*answer.columns}
    for name in ("effective_rank", "effective_rank_ci_low", "entropy_floor_prefix"):
        assert csv[name].to_list() == pytest.approx(answer[name].to_list(), rel=1e-5)
    assert opened.trouble == []


def _saved(page: Any, table: str) -> Path:
    with page.expect_download() as saved:
        page.locator(f"#table-{table} .csv").dispatch_event("click")
    assert saved.value.suggested_filename == f"{table}.csv"
    return Path(saved.value.path())


def test_a_column_sorts_both_ways(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page)
    opened.draw_all()  # a chart that comes above it would move the button under the pointer
    page = opened.page
    table = page.locator("#table-profiles")
    heads = table.locator("thead th").all_inner_texts()
    place = next(k for k, head in enumerate(heads, 1) if head.startswith("effective rank\n"))
    button = table.locator(f"thead th:nth-child({place}) button")
    button.click()
    assert column(page, "profiles", place) == ["10", "20", "30", "40"]
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    button.click()
    assert column(page, "profiles", place) == ["40", "30", "20", "10"]
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_missing_values_sort_last(open_page: OpenPage, tmp_path: Path) -> None:
    tables = database(["a", "b"])
    for row in tables["spectra"][:3]:
        row["effective_rank"] = None
    (path,) = write_report(str(make_store(tmp_path / "store", tables)), tmp_path / "report.html")
    page = open_page(path).page
    page.goto(f"{path.as_uri()}#table-spectra")
    table = page.locator("#table-spectra")
    heads = table.locator("thead th").all_inner_texts()
    place = next(k for k, head in enumerate(heads, 1) if head.startswith("effective rank"))
    for _ in range(2):
        table.locator(f"thead th:nth-child({place}) button").click()
        shown = column(page, "spectra", place)
        assert shown[0] != "–"
        while not table.locator(".after").is_disabled():
            table.locator(".after").click()
        assert column(page, "spectra", place)[-3:] == ["–"] * 3


def test_a_filter_keeps_rows_with_all_its_words(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page).page
    page.goto(f"{hostile_page.as_uri()}#table-spectra")
    table = page.locator("#table-spectra")
    assert table.locator(".count").inner_text() == "1–25 of 320 rows"
    table.locator(".filter").fill("block.3 img 200")
    assert table.locator(".count").inner_text() == "1–10 of 10 rows that fit, of 320"
    heads = table.locator("thead th").all_inner_texts()
    assert set(column(page, "spectra", heads.index("site") + 1)) == {"block.3"}
    table.locator(".filter").fill("nothing of the kind")
    assert table.locator(".count").inner_text() == "no row fits, of 320"
    table.locator(".filter").fill("")
    table.locator(".after").click()
    assert table.locator(".count").inner_text() == "26–50 of 320 rows"


@pytest.mark.parametrize(
    ("number"),
    [
        ("profiles", 3, "effective rank\n"),
        ("layers", 7, "participation ratio\n"),
        ("differences", 2, "difference"),
        ("drift_sites", 5, "relative distance\n"),
    ],
)
def test_the_sql_of_a_number_is_copied_and_gives_it(
    open_page: OpenPage, hostile_page: Path, hostile_store: Path, number: tuple[str, int, str]
) -> None:
    table, row, heading = number
    page = open_page(hostile_page, permissions=["clipboard-read", "clipboard-write"]).page
    page.goto(f"{hostile_page.as_uri()}#table-{table}")
    heads = page.locator(f"#table-{table} thead th").all_inner_texts()
    place = next(k for k, head in enumerate(heads, 1) if head.startswith(heading))
    link = page.locator(f"#table-{table} tbody tr:nth-child({row}) > :nth-child({place}) a")
    shown = float(link.inner_text())
    link.click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_role("button", name="Copy SQL").click()
    dialog.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    table_sql, selection = (
        page.locator(f"#cell-{part}").text_content() for part in ("table", "sql")
    )
    assert copied == table_sql + selection
    assert (table_sql == "") == (table in ("profiles", "drift_sites"))  # selected, not computed
    assert len(selection.splitlines()[0]) < 150
    with connect(hostile_store) as connection:
        rows = connection.sql(copied).fetchall()
    assert len(rows) == 1
    assert rows[0][0] == pytest.approx(shown, rel=1e-3)
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_the_sql_of_a_table_is_copied(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page, permissions=["clipboard-read", "clipboard-write"])
    opened.draw_all()  # a chart that is drawn while one scrolls moves what is below it
    page = opened.page
    page.locator("#sql-profiles summary").click()
    page.locator("#sql-profiles .copy").click()
    page.get_by_role("status").filter(has_text="Copied").wait_for(state="attached")
    assert page.evaluate("navigator.clipboard.readText()").startswith("SELECT run, site")


def test_a_row_gives_its_sql_by_keyboard(
    open_page: OpenPage, hostile_page: Path, hostile_store: Path
) -> None:
    page = open_page(hostile_page).page
    page.locator("#table-profiles tbody tr:nth-child(2) button").focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 1
    with connect(hostile_store) as connection:
        rows = connection.sql(page.locator("#cell-sql").inner_text()).pl()
    name = page.locator("#table-profiles tbody tr:nth-child(2) .run .name").inner_text()
    assert rows["run"].to_list() == [name.strip()]


def test_the_sql_of_every_table_gives_its_first_row(
    open_page: OpenPage, hostile_page: Path, hostile_store: Path
) -> None:
    page = open_page(hostile_page).page
    data = json.loads(page.locator("#data").text_content())["tables"]
    with connect(hostile_store) as connection:
        for name, table in data.items():
            if table["language"] != "SQL":
                continue
            row = page.locator(f"#table-{name} tbody tr").first
            row.locator("td:last-child button").dispatch_event("click")
            texts = [page.locator(f"#cell-{part}").text_content() for part in ("table", "sql")]
            page.keyboard.press("Escape")
            found = connection.sql("".join(texts)).pl()
            assert len(found) == 1, name
            for column in table["columns"]:
                shown = column["values"][0] if "values" in column else None
                if isinstance(shown, float):
                    assert found[column["name"]][0] == pytest.approx(shown, rel=1e-5), name
