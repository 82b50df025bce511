"""The page of one comparison in a browser, from disk, without a network."""

from pathlib import Path
from typing import Any

import pytest
from kept_heads import keep_head
from made_runs import MakeRun
from opened_page import OpenPage

from lpp.analyze import DiffSettings, diff
from lpp.analyze.drift.gate.conditions import parse_condition
from lpp.analyze.drift.gate.verdicts import verdict
from lpp.analyze.evaluations.answers import page_of_drift
from lpp.analyze.pages.words import number, rough
from lpp.analyze.pages.write import written

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11)


@pytest.fixture
def drift(make_run: MakeRun) -> Any:
    """A comparison with logits; the name of the second model means something to a browser."""
    a = make_run(LENGTHS, model="tiny/base")
    b = make_run(LENGTHS, model="x/<img src=x onerror=alert(1)>", seed=1)
    keep_head(a.root, a.plan)
    return diff(a.root, "base", b.run_id, DiffSettings(skip_first=1))


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_opens_without_an_error_and_shows_the_numbers(
    drift: Any, open_page: OpenPage, tmp_path: Path, width: int, scheme: str
) -> None:
    gate = [verdict(parse_condition("kl > 0.01"), drift.predictions, drift.sites)]
    path = tmp_path / "drift.html"
    path.write_text(written(page_of_drift(drift, gate), "html"))
    opened = open_page(path, width=width, color_scheme=scheme)
    opened.draw_all()
    page = opened.page
    assert opened.trouble == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    kl = drift.predictions["kl"].mean
    assert rough(kl) in page.locator("#findings p").first.inner_text()
    row = page.locator("#table-drift_predictions tbody tr").first
    assert row.locator("a.value").first.inner_text() == number(kl)
    assert page.locator("#table-gate tbody").inner_text().split()[:4] == ["FAIL", "kl", ">", "0.01"]
    assert page.locator("[data-chart] svg").count() == 4
    assert page.locator("img").count() == 0
    row.locator("a.value").first.click()
    dialog = page.locator("dialog[open]")
    assert "found.predictions_frame()" in dialog.inner_text()
    assert "lpp-sql" not in dialog.inner_text()
