"""The page as a reader meets it: in a browser, from disk, without a network."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accessibility import serious
from report_tables import database, make_store, run_id

from lpp.analyze.report.report import write_report
from lpp.sql import connect

HOSTILE_TEXT = "<img src=x onerror=alert(1)>"
OpenPage = Callable[..., Any]


def column(page: Any, table: str, place: int) -> list[str]:
    """Texts of one column of the page of a table that is shown, without the intervals."""
    cells = page.locator(f"#table-{table} tbody tr > :nth-child({place})").all()
    return [
        (cell.locator("a").first if cell.locator("a").count() else cell).inner_text()
        for cell in cells
    ]


def test_page_opens_from_disk_without_a_network_or_an_error(
    open_page: OpenPage, hostile_page: Path
) -> None:
    opened = open_page(hostile_page)
    opened.draw_all()
    assert opened.trouble == []
    assert opened.page.locator("section > h2").all_inner_texts() == [
        "In short",
        "Which models, on what, captured how",
        "How profiles differ, and whether by more than noise",
        "How profiles change along a training",
        "What changed between two models",
        "Where in depth",
        "How steady under prefix, context, sample and corpus",
        "Which tokens surprised each model",
        "What tells right answers from wrong ones",
        "How it relates to benchmarks",
        "What to distrust",
        "Saved queries",
        "Provenance",
    ]


def test_every_chart_draws_its_marks(drawn: Any) -> None:
    marks = {
        (plot.get_attribute("data-chart"), plot.get_attribute("data-panel")): {
            kind: plot.locator(f"svg .mark-{kind} > :not([opacity='0'])").count()
            for kind in ("symbol", "rect", "line", "rule")
        }
        for plot in drawn.page.locator("[data-chart]").all()
    }
    profiles = {panel: found for (chart, panel), found in marks.items() if chart == "profiles"}
    assert len(profiles) == 5
    for panel, found in profiles.items():
        assert found["symbol"] == 4, panel
    beside = {panel: found for (chart, panel), found in marks.items() if chart == "published"}
    assert {panel: found["symbol"] for panel, found in beside.items()} == dict.fromkeys(
        ("entropy_floor", "participation_ratio_norm", "effective_rank_norm"), 4 + 8
    )
    for (chart, panel), found in marks.items():
        if chart in ("depth", "entropy"):
            assert found["line"] >= 4, (chart, panel)
            assert found["symbol"] >= 4 * 8, (chart, panel)
        if chart == "training":
            assert found["line"] >= 1, panel
            assert found["symbol"] >= 4, panel
        if chart.startswith("drift"):
            assert found["line"] == 3, (chart, panel)
            assert found["symbol"] >= 3 * 5, (chart, panel)
            assert found["rule"] >= (0 if chart == "drift-histogram" else 3 * 5), (chart, panel)
        if chart == "items-depth":
            assert found["line"] == 1, panel
            assert found["symbol"] >= 8, panel
            assert found["rule"] >= 8, panel
        if chart == "items-reliability":
            assert (found["line"], found["symbol"], found["rule"] >= 5) == (1, 5, True), panel
        if chart == "items-risk":
            assert (found["line"], found["symbol"]) == (1, 10), panel
        if chart.startswith("sensitivity"):
            assert found["rect"] >= 4 * 2 * 2 - 1, chart
        if chart.startswith("correlations"):
            assert found["rect"] >= 2, chart
    assert {chart for chart, _ in marks} == {
        *("profiles", "published", "differences"),
        "training",
        *("drift-depth", "drift-positions", "drift-histogram"),
        *("items-depth", "items-reliability", "items-risk"),
        "depth",
        "entropy",
        *(f"sensitivity-{m}" for m in ("entropy_norm", "participation_ratio", "effective_rank")),
        *(f"correlations-{m}" for m in ("pearson", "spearman", "rank_partial")),
    }


def test_every_panel_says_itself_to_a_screen_reader(drawn: Any) -> None:
    panels = drawn.page.locator("[data-chart] > div").all()
    assert {panel.get_attribute("role") for panel in panels} == {"graphics-document"}
    labels = [panel.get_attribute("aria-label") for panel in panels]
    assert len(set(labels)) == len(labels) > 10
    assert [label for label in labels if not re.search(r"\d", label)] == []  # it names values


def test_names_are_text_everywhere(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page)
    opened.draw_all()
    page = opened.page
    for symbol in page.locator("#chart-profiles .mark-symbol > path").all()[:6]:
        symbol.hover(force=True)
    assert opened.trouble == []
    assert page.locator("img").count() == 0
    assert page.locator("body script:not([type])").count() == 2
    assert HOSTILE_TEXT in page.locator("#table-runs tbody").inner_text()
    assert "</script><script>alert(2)</script>" in page.locator("#table-profiles").inner_text()
    assert "{{ 7 * 7 }}" in page.locator("#provenance").inner_text()
    for table in ("#table-runs tbody", "#table-profiles"):  # filled by the script
        text = page.locator(table).inner_text()
        assert r"<!-- \x1b[2J\u202etxt" in text
        assert not {"\x1b", "\u202e"} & set(text)


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


def test_missing_values_sort_last(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page).page
    page.goto(f"{hostile_page.as_uri()}#table-sensitivity")
    table = page.locator("#table-sensitivity")
    heads = table.locator("thead th").all_inner_texts()
    place = next(k for k, head in enumerate(heads, 1) if head.startswith("value"))
    for _ in range(2):
        table.locator(f"thead th:nth-child({place}) button").click()
        shown = column(page, "sensitivity", place)
        assert shown[0] != "–"
        while not table.locator(".after").is_disabled():
            table.locator(".after").click()
        assert column(page, "sensitivity", place)[-3:] == ["–"] * 3


def test_a_filter_keeps_rows_with_all_its_words(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page).page
    page.goto(f"{hostile_page.as_uri()}#table-spectra")
    table = page.locator("#table-spectra")
    assert table.locator(".count").inner_text() == "1–25 of 320 rows"
    table.locator(".filter").fill("block.3 img 200")
    assert table.locator(".count").inner_text() == "1–10 of 10 rows that fit, of 320"
    assert set(column(page, "spectra", 2)) == {"block.3"}
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
        ("drift-sites", 5, "relative distance\n"),
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
    assert copied == page.locator("#cell-sql").inner_text()
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


def test_a_link_opens_the_details_it_leads_into(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page).page
    page.locator("#findings a").first.click()
    page.locator("#text-differences").wait_for(state="visible")


def test_dark_follows_the_system_and_the_button(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page, color_scheme="dark")
    page = opened.page
    opened.draw_all()
    ground = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('svg text')).fill"
    dark = page.evaluate(ground)
    light_label = page.evaluate(label)
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)" != dark
    assert page.evaluate(label) != light_label
    page.reload()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"  # it is remembered
    light = open_page(hostile_page, color_scheme="light").page
    assert light.evaluate(ground) == "rgb(255, 255, 255)"
    light.get_by_role("button", name="Dark colours").click()
    assert light.evaluate(ground) == dark


def test_a_keyboard_walk_reaches_everything(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page)
    page = opened.page
    opened.draw_all()
    page.evaluate("scrollTo(0, 0)")
    wanted = page.evaluate(
        """() => {
          const all = [...document.querySelectorAll(
            'a[href], button, input, summary, [tabindex="0"]')];
          const wanted = all.filter((e) => e.tabIndex >= 0 && !e.disabled && e.checkVisibility());
          wanted.forEach((e, k) => { e.dataset.stop = k; });
          return wanted.length;
        }"""
    )
    reached, hidden = set(), []
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        stop, outlined = page.evaluate(
            "[document.activeElement.dataset.stop, "
            "getComputedStyle(document.activeElement).outlineStyle]"
        )
        if stop is not None:
            reached.add(int(stop))
            if outlined == "none":
                hidden.append(stop)
    assert wanted > 60
    assert reached == set(range(wanted))
    assert hidden == []


def test_a_row_gives_its_sql_by_keyboard(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page).page
    page.locator("#table-profiles tbody tr:nth-child(2) button").focus()
    page.keyboard.press("Enter")
    assert "SELECT * FROM answer" in page.locator("#cell-sql").inner_text()
    assert page.locator("dialog[open]").count() == 1


def test_axe_finds_nothing_serious(drawn: Any) -> None:
    drawn.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert serious(drawn.page, {}) == []


def test_axe_finds_enough_contrast_in_the_dark(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page, color_scheme="dark", bypass_csp=True).page
    assert serious(page, {"runOnly": ["color-contrast"]}) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_its_window(
    open_page: OpenPage, hostile_page: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    opened = open_page(hostile_page, width=width, color_scheme=scheme)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    folder = Path(os.environ.get("LPP_SCREENSHOTS", tmp_path))
    shot = folder / f"report-{width}-{scheme}.png"
    opened.page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 50_000


def test_scripts_and_html_write_numbers_alike(open_page: OpenPage, hostile_page: Path) -> None:
    cells = "tbody tr > :is(td, th):not(:last-child)"
    shown = open_page(hostile_page).page.locator(cells).all_text_contents()
    without = open_page(hostile_page, java_script_enabled=False).page
    written = without.locator(cells).all_text_contents()
    assert len(written) > 500
    assert [" ".join(t.split()) for t in written] == [" ".join(t.split()) for t in shown]


def test_a_page_of_twenty_models_is_small(open_page: OpenPage, tmp_path: Path) -> None:
    store = make_store(tmp_path, database([f"lab/model-{k}" for k in range(20)], blocks=58))
    (path,) = write_report(str(store), tmp_path / "report.html")
    assert path.stat().st_size < 5_000_000
    opened = open_page(path)
    assert opened.page.locator("*").count() < 20_000  # quick: a table shows some of its rows
    table = opened.page.locator("#table-spectra")
    assert "12,000 rows" in table.locator(".count").text_content()
    opened.draw_all()
    assert opened.trouble == []


@pytest.mark.parametrize("runs", [None, 0, 1])
def test_a_page_without_much_to_show_still_opens(
    open_page: OpenPage, tmp_path: Path, runs: int | None
) -> None:
    tables = None if runs is None else database(["a/b"] * runs)
    if runs == 1:
        tables |= {"hourglass": [], "benchmarks": [], "correlations": []}
    (path,) = write_report(str(make_store(tmp_path, tables)), tmp_path / "report.html")
    opened = open_page(path)
    opened.draw_all()
    assert opened.trouble == []
    missing = " ".join(opened.page.locator(".missing").all_inner_texts())
    assert "The table hourglass has no rows for it" in missing
    assert re.search(r"lpp-analyze layers \S+ fills it", missing)
    said = opened.page.locator("#findings p").first.inner_text()
    nothing = "There are no profiles" if not runs else "There is one run"
    assert said.startswith(nothing)
    if runs:
        assert opened.page.locator("[data-chart=profiles] svg").count() == 5
        assert run_id(0, "a/b") in said


SHOWN = "path[aria-roledescription=point]"


def dimmed(plot: Any) -> set[bool]:
    """Whether points of a chart are dim."""
    every = plot.locator(f"svg {SHOWN}").evaluate_all(
        "all => all.map(e => +e.getAttribute('opacity'))"
    )
    return {opacity < 1 for opacity in every}


def test_pointing_at_a_run_dims_the_others(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page)
    opened.draw_all()
    page = opened.page
    plot = page.locator("[data-chart=entropy]").first
    plot.scroll_into_view_if_needed()
    assert dimmed(plot) == {False}
    dim = "document.querySelector('[data-chart=entropy] svg path[opacity=\"0.12\"]')"
    for place in (SHOWN, ".role-legend-symbol path", ".role-legend-label text"):
        plot.locator(f"svg {place}").first.hover(force=True)
        page.wait_for_function(dim)
        assert dimmed(plot) == {True, False}, place
        page.mouse.move(2, 2)
        page.wait_for_function(f"!{dim}")
    assert opened.trouble == []


def test_tooltips_are_readable(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page)
    opened.draw_all()
    page = opened.page
    tip = page.locator("#vg-tooltip-element")
    charts = sorted({p.get_attribute("data-chart") for p in page.locator("[data-chart]").all()})
    marks = ".mark-symbol path[aria-label], .mark-rect path[aria-label]"
    for chart in charts:
        mark = page.locator(f"[data-chart={chart}]").first.locator(marks).last
        mark.scroll_into_view_if_needed()
        mark.hover(force=True)
        page.wait_for_function(
            "document.querySelector('#vg-tooltip-element')?.classList.contains('visible')"
        )
        keys = tip.locator(".key").all_inner_texts()
        values = tip.locator(".value").all_inner_texts()
        assert [key for key in keys if "_" in key] == [], chart
        assert not {"undefined", "NaN", "null", ""} & {*values}, chart
        assert len(keys) == len(values) > 1, chart
        page.mouse.move(2, 2)
