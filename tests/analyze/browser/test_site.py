"""The site of the documents, built strictly and opened on a phone's screen without a network; and
the sites of two releases, which the workflow puts side by side.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The branch gh-pages after two releases and a pre-release of two short pages, each published
    from a new clone by the workflow's commands.
    """
    pytest.importorskip("mike", reason="the extra docs is not installed")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    step = jobs["docs"]["steps"][-1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **step["env"], "PATH": path, "NO_MKDOCS_2_WARNING": "1"}

    root = tmp_path_factory.mktemp("releases")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    settings |= {"nav": ["index.md", "faq.md"], "hooks": [], "extra_css": []}

    def run(*command: str, folder: Path = root) -> None:
        subprocess.run(command, cwd=folder, env=environment, check=True)

    run("git", "clone", "--quiet", "--bare", str(ROOT), "origin.git")
    for version in ("1.0.0", "1.1.0", "1.2.0rc1"):
        run("git", "clone", "--quiet", "origin.git", version)
        clone = root / version
        (clone / "mkdocs.yml").write_text(yaml.safe_dump(settings))
        shutil.rmtree(clone / "docs")
        (clone / "docs").mkdir()
        (clone / "docs" / "index.md").write_text("# Home\n")
        (clone / "docs" / "faq.md").write_text(f"# Questions of {version}\n")
        environment["GITHUB_REF_NAME"] = f"v{version}"
        run("bash", "-euo", "pipefail", "-c", step["run"], folder=clone)
    run("git", "clone", "--quiet", "--branch", "gh-pages", "origin.git", "pages")
    return root / "pages"


@pytest.mark.slow
def test_each_release_has_its_documents(releases: Path) -> None:
    listed = json.loads((releases / "versions.json").read_text())
    assert [(of["version"], of["aliases"]) for of in listed] == [
        ("1.2.0rc1", []),
        ("1.1.0", ["latest"]),
        ("1.0.0", []),
    ]
    for folder, version in (("1.0.0", "1.0.0"), ("1.1.0", "1.1.0"), ("latest", "1.1.0")):
        page = (releases / folder / "faq.html").read_text("utf-8")
        assert re.findall(r"Questions of ([\d.]+)<", page) == [version]


@pytest.mark.slow
def test_a_reader_chooses_a_release(releases: Path, browser: Any) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=releases)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser.new_page() as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_url("**/latest/")
            page.locator(".md-version__current").focus()
            page.locator(".md-version__link", has_text="1.0.0").click()
            page.wait_for_url("**/1.0.0/**")
        finally:
            server.shutdown()
