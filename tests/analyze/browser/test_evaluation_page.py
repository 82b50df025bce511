"""The page of an analysis of items in a browser, from disk, without a network."""

from pathlib import Path

import pytest
from accessibility import serious
from evaluated_items import EvaluatedRun, evaluated_run
from made_runs import Made, MakeRun
from opened_page import OpenPage

import lpp.analyze
from lpp.analyze.evaluations.pages.items_page import items_page
from lpp.analyze.pages.write import written as page_in

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page_file(make_shared_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of items with groups; the names of model, task and groups are markup."""

    def calm(made: Made, prompt: int, answer: int) -> bool:
        return bool(made.entropy[prompt][answer] < 1.5 or prompt % 5 == 0)

    groups = (HOSTILE, "art")
    written: EvaluatedRun = evaluated_run(
        make_shared_run, items=120, right=calm, model=f"x/{HOSTILE}", task=HOSTILE, groups=groups
    )
    found = lpp.analyze.items(written.root, HOSTILE)
    path = tmp_path_factory.mktemp("page") / "items.html"
    path.write_text(page_in(items_page(str(written.root), found), "html"))
    return path


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_opens_fits_and_has_its_charts(
    open_page: OpenPage, page_file: Path, width: int, scheme: str
) -> None:
    opened = open_page(page_file, width=width, color_scheme=scheme, bypass_csp=True)
    opened.draw_all()
    page = opened.page
    assert opened.trouble == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img").count() == 0
    body = page.locator("body").inner_text()
    for slip in ("undefined", "NaN", "[object"):
        assert slip not in body
    assert HOSTILE in body
    assert page.locator("[data-chart] svg").count() == 3
    depth = page.locator("#chart-items-depth svg")
    assert depth.locator(".mark-symbol > path").count() >= 6  # three features at two sites
    assert page.locator("#chart-items-reliability svg .mark-symbol > path").count() == 10
    assert page.locator("#table-item-mistakes tbody tr").count() == 10
    page.locator("#table-item-features tbody tr").first.locator("a.value").first.click()
    dialog = page.locator("dialog[open]")
    assert "found['item_" in dialog.inner_text()
    page.keyboard.press("Escape")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert serious(page, {}) == []
