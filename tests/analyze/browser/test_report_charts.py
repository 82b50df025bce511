"""Charts of the report in a browser: their marks, tooltips, and pointing at a run."""

import re
from pathlib import Path
from typing import Any

from opened_page import Opened, OpenPage

SHOWN = "path[aria-roledescription=point]"


def test_every_chart_draws_its_marks(drawn: Opened) -> None:
    marks = {
        (plot.get_attribute("data-chart"), plot.get_attribute("data-panel")): {
            kind: plot.locator(f"svg .mark-{kind} > :not([opacity='0'])").count()
            for kind in ("symbol", "rect", "line", "rule")
        }
        for plot in drawn.page.locator("[data-chart]").all()
    }
    profiles = {panel: found for (chart, panel), found in marks.items() if chart == "profiles"}
    assert len(profiles) == 3
    for panel, found in profiles.items():
        assert found["symbol"] == 4, panel
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
        if chart == "probe-depth":
            assert (found["line"], found["symbol"] >= 8, found["rect"]) == (1, True, 2), panel
        if chart == "probe-reliability":
            assert (found["line"], found["symbol"]) == (1, 5), panel
    assert {chart for chart, _ in marks} == {
        *("profiles", "differences"),
        "training",
        *("drift-depth", "drift-positions", "drift-histogram"),
        *("items-depth", "items-reliability", "items-risk"),
        *("probe-depth", "probe-reliability"),
        "depth",
        "entropy",
    }


def test_every_panel_says_itself_to_a_screen_reader(drawn: Opened) -> None:
    panels = drawn.page.locator("[data-chart] > div").all()
    assert {panel.get_attribute("role") for panel in panels} == {"graphics-document"}
    labels = [panel.get_attribute("aria-label") for panel in panels]
    assert len(set(labels)) == len(labels) > 10
    assert [label for label in labels if not re.search(r"\d", label)] == []  # it names values


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


def dimmed(plot: Any) -> set[bool]:
    """Whether points of a chart are dim."""
    every = plot.locator(f"svg {SHOWN}").evaluate_all(
        "all => all.map(e => +e.getAttribute('opacity'))"
    )
    return {opacity < 1 for opacity in every}


def test_pointing_at_a_run_dims_the_others_of_its_chart(
    open_page: OpenPage, hostile_page: Path
) -> None:
    opened = open_page(hostile_page)
    opened.draw_all()
    page = opened.page
    plot = page.locator("[data-chart=entropy]").first
    plot.scroll_into_view_if_needed()
    assert dimmed(plot) == {False}
    plot.locator(f"svg {SHOWN}").first.hover(force=True)
    dim = "document.querySelector('[data-chart=entropy] svg path[opacity=\"0.12\"]')"
    page.wait_for_function(dim)
    assert dimmed(plot) == {True, False}
    assert dimmed(page.locator("[data-chart=depth]").first) == {False}
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
