"""Charts as files, and what is said without the extra."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chart_frames import HOSTILE, Picture, entropy, profiles

from lpp.analyze import entropy_chart, profile_chart, save_chart
from lpp.analyze.charts import export
from lpp.store.process.packages import install_command


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg", "html", "json", "SVG"])
def test_the_same_chart_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    first, second = (
        save_chart(entropy_chart(entropy()), tmp_path / f"{k}.{suffix}") for k in range(2)
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_picture_has_its_text_alternative(tmp_path: Path) -> None:
    chart = profile_chart(profiles(tuple(HOSTILE)))
    picture = Picture(chart, tmp_path)
    assert picture.root.attrib["role"] == "graphics-document"
    assert picture.label == chart.description
    assert "<img src=x onerror=alert(1)>" in picture.label


class Page(HTMLParser):
    """What a browser would run and fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and data.strip():
            self.scripts.append(data)


@pytest.mark.slow
def test_a_page_holds_everything_and_names_stay_names(tmp_path: Path) -> None:
    chart = entropy_chart(entropy(tuple(HOSTILE)))
    page = Page(save_chart(chart, tmp_path / "a.html").read_text())
    assert page.fetched == []
    assert page.tags.count("script") == 2  # the specification, and what draws it
    assert "img" not in page.tags
    assert json.loads(page.scripts[0]) == chart.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_the_script_of_a_page_needs_no_other_process(
    python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_another = export.chart_script()
    monkeypatch.setattr(sys, "executable", python)
    export.chart_script.cache_clear()
    export.begin_script.cache_clear()
    assert export.chart_script() == by_another


WITHOUT = """
import sys
sys.modules[{package!r}] = None
import lpp.analyze
from lpp.analyze import scan_spectra, read_eigenvalues
from lpp.store.errors import MachineError
try:
    lpp.analyze.profile_chart
except MachineError as error:
    print(error.kind, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_without_its_packages_a_chart_names_them(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(package=package)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert package in done.stdout
    assert install_command("report") in done.stdout
