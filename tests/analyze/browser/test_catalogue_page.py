"""The catalogue in a browser: sorted from a disk, and asked in SQL without another host."""

from pathlib import Path
from typing import Any

import pytest
from node_packages import node_modules
from opened_page import OpenPage
from report_tables import database, make_store
from served_folder import served_folder

from lpp.analyze.publish.card import card_json
from lpp.analyze.publish.catalogue import write_catalogue

CLIENT = Path(__file__).parents[2] / "support" / "node_duckdb"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two published stores, one with names that mean something to a browser."""
    folder = tmp_path_factory.mktemp("catalogue")
    hostile = "<img src=x onerror=alert(1)>"
    for name, models in {"b & c": ["lab/base", "lab/tuned"], "a": [hostile, "lab/other"]}.items():
        make_store(folder / name, database(models))
        card = card_json({"version": 1, "texts": False, "licence": hostile})
        (folder / name / "card.json").write_bytes(card)
    write_catalogue(folder, node_modules(CLIENT))
    return folder


@pytest.mark.parametrize("width", [390, 1280])
def test_it_lists_and_sorts_from_a_disk(open_page: OpenPage, catalogue: Path, width: int) -> None:
    opened = open_page(catalogue / "index.html", width=width)
    page = opened.page
    links = page.locator("#stores a").evaluate_all("es => es.map((e) => e.getAttribute('href'))")
    assert links == [
        "a/report.html",
        "a/README.md",
        "b%20%26%20c/report.html",
        "b%20%26%20c/README.md",
    ]
    heading = page.locator("#table-profiles .sort", has_text="entropy floor").first
    columns = page.locator("#table-profiles thead th").all_inner_texts()
    place = next(k for k, text in enumerate(columns) if text.startswith("entropy floor")) + 1
    cells = page.locator(f"#table-profiles tbody tr > :nth-child({place}) a.value")
    heading.click()
    ascending = [float(text) for text in cells.all_inner_texts()]
    assert len(ascending) == 4
    assert ascending == sorted(ascending)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.trouble == []


def test_sql_asks_no_other_host(browser: Any, catalogue: Path) -> None:
    with served_folder(catalogue) as server:
        context = browser.new_context()
        context.set_default_timeout(60_000)
        requests: list[str] = []
        trouble: list[str] = []
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.goto(f"http://127.0.0.1:{server.port}/sql.html")
        cells = page.locator("#answer td")
        page.locator("#state", has_text="4 rows").wait_for()
        page.fill(
            "#sql",
            "SELECT store, count(*)::INT AS n, max(licence) AS l FROM profiles GROUP BY 1 "
            "ORDER BY 1",
        )
        page.click("#run")
        page.locator("#state", has_text="2 rows").wait_for()
        hostile = "<img src=x onerror=alert(1)>"
        assert cells.all_inner_texts() == ["a", "2", hostile, "b & c", "2", hostile]
        assert trouble == []
        page.fill("#sql", "SELECT nothing FROM profiles")
        page.click("#run")
        page.locator("#state", has_text="Binder Error").wait_for()
        hosts = {url.removeprefix("blob:").split("/")[2] for url in requests}
        assert hosts == {f"127.0.0.1:{server.port}"}
        context.close()
