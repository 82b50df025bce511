"""The page as a reader meets it: in a browser, from disk, without a network."""

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from accessibility import serious
from report_tables import database, make_store, run_id

from lpp.analyze.report.answers import ask
from lpp.analyze.report.queries import PROFILES
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
    assert [e.get_attribute("id") for e in opened.page.locator("main > section").all()] == [
        *("findings", "legend", "models", "profiles", "training", "drift", "depth", "steadiness"),
        *("items", "benchmarks", "distrust", "lacking", "queries", "provenance"),
    ]
    titles = opened.page.locator("section > h2").all_inner_texts()
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_has_the_sentence_the_numbers_and_the_depth_picture(
    open_page: OpenPage, pages: dict[int, Path], count: int, width: int, height: int
) -> None:
    page = open_page(pages[count], width=width, height=height).page
    page.locator("#chart-depth svg").first.wait_for()

    def bottom(place: str) -> float:
        box = page.locator(place).first.bounding_box()
        return float(box["y"] + box["height"])

    assert bottom("h1") < bottom(".meaning") < bottom(".figures") < height
    assert bottom(".warnings li") < height
    assert page.locator("#chart-depth svg").first.bounding_box()["y"] + 200 < height
    assert page.locator(".figures tbody tr").count() == (2 if count == 2 else 3)
    assert page.locator(".figures").inner_text().count("[") == 6
    assert page.locator(".warnings .badge").first.get_attribute("href").startswith("#flag-")
    overflow = "e => e.scrollWidth - e.clientWidth"
    assert page.locator(".screen .scroll").evaluate(overflow) <= 0  # every number is visible


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("width", [1280, 800, 390])
def test_the_page_fits_its_window_and_is_legible(
    open_page: OpenPage, pages: dict[int, Path], count: int, width: int
) -> None:
    opened = open_page(pages[count], width=width, bypass_csp=True)
    opened.draw_all()
    page = opened.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if count == 2:
            assert serious(page, {}) == []
    text = page.locator("body").inner_text()
    for slip in ("undefined", "NaN", "[object", "Infinity"):
        assert slip not in text
    assert opened.trouble == []


def test_tooltips_are_legible_in_the_dark(open_page: OpenPage, pages: dict[int, Path]) -> None:
    opened = open_page(pages[2], color_scheme="dark")
    opened.draw_all()
    page = opened.page
    page.locator("#chart-depth .mark-symbol > path").first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "lab/base" in tooltip.inner_text()
    assert "undefined" not in tooltip.inner_text()
    colors = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
    page_colors = page.locator("body").evaluate(colors)
    assert tooltip.evaluate(colors) == page_colors
    assert tooltip.locator("td.value").first.evaluate(colors)[1] == page_colors[1]


def test_a_run_that_is_pointed_at_is_marked_everywhere(
    open_page: OpenPage, pages: dict[int, Path]
) -> None:
    page = open_page(pages[20]).page
    page.locator("#legend .run").nth(2).hover()
    rows = page.locator("#table-runs tbody tr.lit")
    assert [row.locator("th").inner_text() for row in rows.all()] == ["C lab/model-10-0000000a"]
    assert page.locator(".run.lit").count() > 5
    page.locator("h1").hover()
    assert page.locator(".lit").count() == 0


def test_other_columns_are_there_on_demand(open_page: OpenPage, pages: dict[int, Path]) -> None:
    page = open_page(pages[2]).page
    heads = page.locator("#table-profiles thead th:visible")
    few = heads.count()
    button = page.locator("#table-profiles .all")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert heads.count() > few + 3
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


def test_a_printed_page_has_its_tables_and_no_buttons(
    open_page: OpenPage, pages: dict[int, Path]
) -> None:
    opened = open_page(pages[2], color_scheme="dark", width=800)
    opened.draw_all()
    page = opened.page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("button:not(.sort):visible").count() == 0
    assert page.locator("nav:visible, .tools:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for body in page.locator(".table tbody").all():
        assert body.locator("tr").first.is_visible()
    cut = page.locator(".plot").evaluate_all(
        "es => es.filter(e => e.querySelector('svg').getBoundingClientRect().width > "
        "e.getBoundingClientRect().width + 1).length"
    )
    assert cut == 0


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
    table_sql, selection = (
        page.locator(f"#cell-{part}").text_content() for part in ("table", "sql")
    )
    assert copied == table_sql + selection
    assert (table_sql == "") == (table in ("profiles", "drift-sites"))  # selected, not computed
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


def test_a_link_opens_the_details_it_leads_into(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page).page
    page.locator(".meaning a").first.click()
    page.locator("#text-profiles").wait_for(state="visible")


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


def test_axe_finds_nothing_serious(drawn: Any) -> None:
    drawn.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert serious(drawn.page, {}) == []


def test_axe_finds_enough_contrast_in_the_dark(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page, color_scheme="dark", bypass_csp=True).page
    assert serious(page, {"runOnly": ["color-contrast"]}) == []


def test_long_names_fit_a_telephone(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page, width=390)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_scripts_and_html_write_numbers_alike(open_page: OpenPage, hostile_page: Path) -> None:
    cells = "tbody tr > :is(td, th):not(:last-child)"
    shown = open_page(hostile_page).page.locator(cells).all_text_contents()
    without = open_page(hostile_page, java_script_enabled=False).page
    written = without.locator(cells).all_text_contents()
    assert len(written) > 500
    assert [" ".join(t.split()) for t in written] == [" ".join(t.split()) for t in shown]


def test_a_page_of_twenty_models_is_small(open_page: OpenPage, pages: dict[int, Path]) -> None:
    assert pages[20].stat().st_size < 7_000_000
    opened = open_page(pages[20])
    assert opened.page.locator("*").count() < 25_000  # quick: a table shows some of its rows
    assert not opened.page.locator("#table-differences").is_visible()  # 950 rows are folded
    table = opened.page.locator("#table-spectra")
    assert "12,000 rows" in table.locator(".count").text_content()
    opened.draw_all()
    assert opened.trouble == []


@pytest.mark.parametrize("runs", [None, 0, 1])
def test_a_page_without_much_to_show_still_opens(
    open_page: OpenPage, tmp_path: Path, runs: int | None
) -> None:
    tables = None if runs is None else database(["a/b"] * runs)
    if tables and runs == 1:
        tables |= {"hourglass": [], "benchmarks": [], "correlations": []}
    (path,) = write_report(str(make_store(tmp_path, tables)), tmp_path / "report.html")
    opened = open_page(path)
    opened.draw_all()
    assert opened.trouble == []
    assert opened.page.locator("#lacking li").filter(has_text="Hourglass").count() == 1
    commands = opened.page.locator("#lacking pre").all_inner_texts()
    assert len(commands) == 2
    assert "lpp-analyze layers " in commands[0]
    assert ("lpp-analyze profile " in commands[0]) == (not runs)
    sentence = opened.page.locator(".meaning").inner_text()
    if runs:
        assert opened.page.locator("[data-chart=profiles] svg").count() == 5
        assert run_id(0, "a/b") in sentence
    else:
        assert not re.search(r"\d", sentence)


def test_the_picture_of_the_documents_is_made_by_a_script(
    browser: Any, pages: dict[int, Path], tmp_path: Path
) -> None:
    store = pages[2].with_name("2")
    script = Path(__file__).parents[3] / "docs" / "site" / "pictures.py"
    words = [sys.executable, str(script), str(store), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head = (tmp_path / "report.png").read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert struct.unpack(">II", head[16:24]) == (1280, 800)


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
