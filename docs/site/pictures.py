"""Pictures of the report for the documents, by a real Chromium: `make pictures`.

python docs/site/pictures.py demo docs
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from lpp.analyze import write_report

WIDTH: Final = 1280
HEIGHT: Final = 800
"""Pixels of the first screen."""


def take_pictures(store: Path, folder: Path) -> list[Path]:
    """Write `report.png`, the first screen of the report of `store` in light colours."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        sys.exit("Chromium is not installed: apt-get install --no-install-recommends chromium")
    picture = folder / "report.png"
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        (page_file,) = write_report(str(store), Path(scratch) / "report.html")
        # as root, which containers are, Chromium has no sandbox
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", offline=True
        )
        page.goto(page_file.as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.first [data-chart]')].every(e => 'drawn' in e.dataset)"
        )
        page.screenshot(path=picture)
        browser.close()
    return [picture]


if __name__ == "__main__":
    for written in take_pictures(*map(Path, sys.argv[1:])):
        print(f"{written}: {written.stat().st_size / 1e3:.0f} kB")
