"""The site of the documents, built strictly and opened on a phone's screen without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PHONE = {"width": 390, "height": 844}
CODE = re.compile(r"<(code|script)\b.*?</\1>", re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the site."""
    pytest.importorskip("material", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.mark.slow
def test_formulas_are_set(site: Path) -> None:
    pages = {path: CODE.sub("", path.read_text("utf-8")) for path in site.rglob("*.html")}
    metrics = pages[site / "metrics.html"]
    assert metrics.count("<math") > 40
    assert "$" not in metrics
    assert not [path for path, text in pages.items() if "arithmatex" in text]


@pytest.mark.slow
def test_terms_lead_to_the_glossary(site: Path) -> None:
    page = (site / "how-to" / "compare.html").read_text("utf-8")
    links = re.findall(r'<a href="\.\./glossary\.html#([\w-]+)"', page)
    assert {"run", "site", "jackknife"} <= {*links}
    assert len(links) == len({*links})
    glossary = (site / "glossary.html").read_text("utf-8")
    assert all(f'<h2 id="{anchor}">' in glossary for anchor in links)


def test_no_page_scrolls_sideways_or_asks_another_server(site: Path, browser: Any) -> None:
    context = browser.new_context(offline=True, viewport=PHONE)
    page = context.new_page()
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("file:", "data:", "blob:"))
            else elsewhere.append(asked.url)
        ),
    )
    wide = {}
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        width = page.evaluate("document.scrollingElement.scrollWidth")
        if width > PHONE["width"]:
            wide[path.relative_to(site).as_posix()] = width
    context.close()
    assert wide == {}
    assert elsewhere == []
