"""The page as a reader meets it: in a browser, from disk, without a network."""

import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from accessibility import serious
from opened_page import Opened, OpenPage
from pdf_text import sheets
from report_tables import database, make_store, run_id

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.html import as_html
from lpp.analyze.pages.page import Opening, Page, Section
from lpp.analyze.pages.table import table_of
from lpp.analyze.pages.words import STYLES
from lpp.analyze.report.report import write_report

HOSTILE_TEXT = "<img src=x onerror=alert(1)>"


def test_page_opens_from_disk_without_a_network_or_an_error(
    open_page: OpenPage, hostile_page: Path
) -> None:
    opened = open_page(hostile_page)
    opened.draw_all()
    assert opened.trouble == []
    assert [e.get_attribute("id") for e in opened.page.locator("main > section").all()] == [
        *("findings", "legend", "models", "profiles", "training", "drift", "depth", "steadiness"),
        *("items", "probes", "benchmarks", "distrust", "queries", "provenance"),
    ]
    titles = opened.page.locator("section > h2").all_inner_texts()
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_has_the_sentence_the_numbers_and_the_picture(
    open_page: OpenPage, pages: dict[int, Path], count: int, width: int, height: int
) -> None:
    page = open_page(pages[count], width=width, height=height).page
    picture = page.locator("#findings #chart-drift-depth svg").first  # runs were compared
    picture.wait_for()

    def bottom(place: str) -> float:
        box = page.locator(place).first.bounding_box()
        return float(box["y"] + box["height"])

    assert bottom("h1") < bottom(".meaning") < bottom(".figures") < height
    assert bottom(".warnings li") < height
    assert picture.bounding_box()["y"] + 200 < height
    n_pairs = page.locator(".figures tbody tr").count()
    assert n_pairs == {2: 1, 20: 2}[count]
    assert page.locator(".figures").inner_text().count("[") == 2 * n_pairs
    assert page.locator(".warnings .badge").first.get_attribute("href").startswith("#flag-")
    overflow = "e => e.scrollWidth - e.clientWidth"
    assert page.locator(".screen .scroll").evaluate(overflow) <= 0  # every number is visible


@pytest.mark.parametrize(("width", "count"), [(1280, 2), (800, 20), (390, 2), (390, 20)])
def test_the_page_fits_its_window_and_is_legible(
    open_page: OpenPage, pages: dict[int, Path], count: int, width: int
) -> None:
    opened = open_page(pages[count], width=width, bypass_csp=True)
    opened.draw_all()
    page = opened.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # colours do not depend on the width, and what does not depends not on the scheme
        if count == 2 and (width == 1280 or scheme == "light"):
            assert serious(page, {}) == []
    text = page.locator("body").inner_text()
    for slip in ("undefined", "NaN", "[object", "Infinity"):
        assert slip not in text
    assert opened.trouble == []


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
    assert page.locator(".table .code:visible").count() == 0
    cut = page.locator(".plot").evaluate_all(
        "es => es.filter(e => e.querySelector('svg').getBoundingClientRect().width > "
        "e.getBoundingClientRect().width + 1).length"
    )
    assert cut == 0


def test_every_sheet_of_a_printed_table_has_its_headings(
    open_page: OpenPage, pages: dict[int, Path]
) -> None:
    page = open_page(pages[20]).page
    page.goto(f"{pages[20].as_uri()}#table-layers")  # opens it
    page.add_style_tag(
        content="main > *:not(#depth), #depth > *:not(:has(#table-layers)) {display: none}"
    )
    printed = sheets(page.pdf(width="8in", height="4in"))
    assert len(printed) > 1
    for sheet in printed:
        assert "participationratio" in sheet
        assert "SQL" not in sheet
    words = "".join(printed).replace(" ", "")  # one at the end of a line is not in the file
    assert "1–25of1,200rows;allareintheCSV" in words


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


def test_a_link_opens_the_details_it_leads_into(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page).page
    link = page.locator(".meaning a").first
    table = link.get_attribute("href").removeprefix("#sql-")
    assert not page.locator(f"#text-{table}").is_visible()
    link.click()
    page.locator(f"#text-{table}").wait_for(state="visible")


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


def test_axe_finds_nothing_serious(drawn: Opened) -> None:
    drawn.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert serious(drawn.page, {}) == []


def test_axe_finds_enough_contrast_in_the_dark(open_page: OpenPage, hostile_page: Path) -> None:
    page = open_page(hostile_page, color_scheme="dark", bypass_csp=True).page
    assert serious(page, {"runOnly": ["color-contrast"]}) == []


def test_long_names_fit_a_telephone(open_page: OpenPage, hostile_page: Path) -> None:
    opened = open_page(hostile_page, width=390)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_every_table_and_warning_is_readable_on_a_telephone(
    open_page: OpenPage, hostile_page: Path, pages: dict[int, Path]
) -> None:
    for path in (hostile_page, pages[20]):
        page = open_page(path, width=390).page
        page.evaluate("document.querySelectorAll('details.more').forEach(d => { d.open = true; })")
        out_of_sight = page.evaluate(
            """() => [...document.querySelectorAll('.table')].flatMap((table) =>
              [...table.querySelectorAll('.caption, tbody tr:first-child > .number')]
                .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth)
                .map((e) => `${table.id}: ${e.textContent}`))"""
        )
        assert out_of_sight == []
        assert page.locator(".table .scroll .caption").count() == 0  # it stays when numbers move
        letter = page.locator("#table-profiles tbody [data-run]").first
        first = page.locator("#table-profiles tbody th").first
        assert first.evaluate("e => getComputedStyle(e).position") == "sticky"
        assert letter.get_attribute("title")
        assert letter.locator(".name").bounding_box()["width"] <= 1
        assert len(letter.inner_text().split()) > 1  # a screen reader says the name
        cut = "es => es.filter((e) => e.scrollWidth > e.clientWidth).length"
        assert page.locator(".warnings li").count() > 0
        assert page.locator(".warnings li").evaluate_all(cut) == 0


def test_the_code_of_a_row_is_in_sight_on_a_telephone(
    open_page: OpenPage, pages: dict[int, Path]
) -> None:
    page = open_page(pages[2], width=390).page
    ends = page.locator("td.code button:visible").evaluate_all(
        "es => es.map((e) => e.getBoundingClientRect().right)"
    )
    assert len(ends) > 20
    assert max(ends) <= 390
    cut = "es => es.filter((e) => e.scrollWidth > e.clientWidth).length"
    assert page.locator(".table .scroll:visible").evaluate_all(cut) > 0  # these are wider
    page.locator("details").evaluate_all("es => es.forEach((e) => { e.open = true; })")
    assert page.locator("pre:visible").count() > 20
    assert page.locator("pre:visible").evaluate_all(cut) == 0


def test_names_break_between_their_words_on_a_telephone(
    open_page: OpenPage, pages: dict[int, Path]
) -> None:
    page = open_page(pages[2], width=390).page
    words, broken = page.evaluate(
        """() => {
          const words = [...document.querySelectorAll('#table-differences td.text')]
            .flatMap((cell) => [...cell.childNodes])
            .filter((node) => node.data && !node.data.includes(' '));
          const lines = (node) => {
            const range = document.createRange();
            range.selectNode(node);
            return range.getClientRects().length;
          };
          return [words.length, words.filter((node) => lines(node) > 1).map((node) => node.data)];
        }"""
    )
    assert words > 5
    assert broken == []


def test_scripts_and_html_write_numbers_alike(open_page: OpenPage, hostile_page: Path) -> None:
    written, shown = cells_of(open_page, hostile_page)
    assert len(written) > 500
    assert written == shown


def test_ties_of_rounding_are_written_alike(open_page: OpenPage, tmp_path: Path) -> None:
    """Halves of the last digit that is shown, and numbers that six digits would bring to one."""
    values = [0.125, 0.375, 2.747499, 2.7475, 1234.5, 1234567.8, 0.9986, 0.9999999, 1.0, 2.5e-5]
    values += [0.00012345, 0.99999, 0.995, 0.0625, 99999.5, 0.0, 1e-4, 0.12345]
    frame = pl.DataFrame({"n": range(len(values))}).with_columns(
        pl.Series(style, values) for style in STYLES
    )
    frame = frame.with_columns(signed=-pl.col("signed"), figures_stderr=pl.lit(0.125))
    table = table_of(
        *("ties", "Ties", frame, {}),
        first=frame.columns,
        styles={name: name for name in STYLES},
        key=("n",),
    )
    page = Page(
        title="Ties",
        opening=Opening(("Ties.",)),
        sections=(Section("ties", "Ties", tables=(table,)),),
        runs=RunStyles({}),
    )
    (tmp_path / "ties.html").write_text(as_html(page), encoding="utf-8")
    written, shown = cells_of(open_page, tmp_path / "ties.html")
    assert len(written) == len(values) * (1 + len(STYLES))
    assert written == shown


def cells_of(open_page: OpenPage, path: Path) -> list[list[str]]:
    """The cells of every table: as the HTML has them, and as the script writes them."""
    cells = "tbody tr > :is(td, th):not(:last-child)"
    pages = [open_page(path, java_script_enabled=scripted).page for scripted in (False, True)]
    pages[1].locator("button.all").evaluate_all("es => es.forEach((e) => e.click())")
    texts = (page.locator(cells).all_text_contents() for page in pages)
    return [[" ".join(text.split()) for text in of_page] for of_page in texts]


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
    assert "Hourglass" in opened.page.locator("#lacking").inner_text()
    (command,) = opened.page.locator("#lacking code").all_inner_texts()
    assert command.split()[1] == {None: "profile", 0: "run", 1: "layers"}[runs]
    sentence = opened.page.locator(".meaning").inner_text()
    if runs:
        assert opened.page.locator("[data-chart=profiles] svg").count() == 3
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
