"""The report's page in Debian's Chromium, without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opened_page import Opened, OpenPage
from report_tables import database, make_store

from lpp.analyze.report.report import write_report

INSTALL = "apt-get update && apt-get install --yes --no-install-recommends chromium"
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE profiles; --",
    "</script><script>alert(2)</script>",
    'a "b" `c` ${alert(3)} {{ 7 * 7 }} <!-- \x1b[2J\u202etxt',
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.skip(f"Chromium is not installed: {INSTALL}")
    with sync_playwright() as playwright:
        # as root, which continuous integration is, Chromium has no sandbox
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_offline(
    browser: Any, path: Path, *, width: int = 1280, height: int = 900, **options: Any
) -> Opened:
    """`path` in a window of its own, which notes everything that goes wrong."""
    viewport = {"width": width, "height": height}
    context = browser.new_context(offline=True, viewport=viewport, **options)
    context.set_default_timeout(60_000)
    opened = Opened(context.new_page())
    page, trouble = opened.page, opened.trouble

    def on_console(message: Any) -> None:
        if message.type == "error":
            trouble.append(f"console: {message.text}")

    def on_request(asked: Any) -> None:
        if not asked.url.startswith(("file:", "data:")):
            trouble.append(f"request: {asked.url}")

    page.on("console", on_console)
    page.on("request", on_request)
    page.on("pageerror", lambda error: trouble.append(f"script: {error}"))
    page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))
    page.goto(path.as_uri())
    return opened


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """`open_page(path, width=390)` -> the page, opened from disk without a network."""
    contexts = []

    def open_(path: Path, **options: Any) -> Opened:
        opened = open_offline(browser, path, **options)
        contexts.append(opened.page.context)
        return opened

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def drawn(browser: Any, hostile_page: Path) -> Iterator[Opened]:
    """The page of hostile names with every chart drawn: for tests that change nothing."""
    opened = open_offline(browser, hostile_page, bypass_csp=True)  # axe is not of the page
    opened.draw_all()
    yield opened
    opened.page.context.close()


@pytest.fixture(scope="session")
def hostile_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table of four runs, whose names mean something to a browser or to SQL: checkpoints
    of a series called like the first of them.
    """
    tables = database(HOSTILE, flags=["normaliser"], series=HOSTILE[0])
    return make_store(tmp_path_factory.mktemp("hostile") / "store", tables)


@pytest.fixture(scope="session")
def hostile_page(hostile_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    (path,) = write_report(str(hostile_store), tmp_path_factory.mktemp("page") / "report.html")
    return path


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Reports of two runs and of twenty deep models."""
    folder = tmp_path_factory.mktemp("pages")
    tables = {
        2: database(["lab/base", "lab/base-rounded"]),
        20: database([f"lab/model-{k}" for k in range(20)], blocks=58),
    }
    return {
        count: write_report(str(make_store(folder / str(count), some)), folder / f"{count}.html")[0]
        for count, some in tables.items()
    }
