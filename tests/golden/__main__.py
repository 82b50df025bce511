"""Compare what every command writes before a change and after it: `make golden BASE=main`.

python -m tests.golden [BASE] [--only PATTERN]... [--expect PATTERN]... [--pictures]

Both sides run commands.txt on copies of the same stores, in the same environment. Texts, Markdown,
JSON, CSV, tables of the databases, files and charts are compared byte for byte, but for times and
durations. Each output that differs is printed as a unified diff; all are in build/golden/sides/.
A pattern holds for a part of a name: --only 'profile_demo*format_md', --expect 'tables/'.
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BUILT: Final = ROOT / "build" / "golden"
STORES: Final = ("demo", "quickstart", "v3", "v5")
COMPUTED: Final = ("analysis", "profiles.duckdb")
"""What earlier commands kept in a store: each side computes it anew."""
VARIES: Final = (
    (r"(?m)^.*: [\d,]+/[\d,]+ \w+ after \d+ .*\n", ""),  # progress
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?", "TIME"),
    (r"\b1[789]\d{8}\b(\.\d+)?", "TIME"),
    (r"/sides/(was|now)\b", "/sides/SIDE"),  # of equal length: lines wrap alike
)
"""What may differ between two runs of one revision."""


def linked(code: Path, folder: Path) -> Path:
    """A folder for PYTHONPATH, in which `lpp` is the code of a checkout."""
    lpp = folder / "path" / "lpp"
    lpp.mkdir(parents=True)
    for name in ("store", "sql", "capture", "analyze"):
        (lpp / name).symlink_to(code / name)
    (lpp / "__init__.py").symlink_to(code / "namespace" / "__init__.py")
    return lpp.parent


def started(code: Path, folder: Path, only: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process that runs every command with the code of a checkout, in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    path = linked(code, folder)
    for name in STORES:
        shutil.copytree(
            BUILT / "stores" / name,
            folder / name,
            ignore=shutil.ignore_patterns(*COMPUTED),
            copy_function=os.link,
        )
    environment = os.environ | {"PYTHONPATH": str(path), "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    here = Path(__file__).parent
    command = [sys.executable, str(here / "side.py"), str(here / "commands.txt"), str(path), *only]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def outputs(folder: Path) -> dict[str, Path]:
    """What the commands of a side printed and wrote, by name."""
    ours = [p for p in folder.iterdir() if p.name not in (*STORES, "path")]
    files = (p for top in ours for p in (top.rglob("*") if top.is_dir() else [top]))
    return {str(p.relative_to(folder)): p for p in files if p.is_file()}


def words_of(path: Path) -> list[str]:
    """Lines of an output, without what varies; of a table of Parquet, its rows."""
    if path.suffix == ".parquet":
        import duckdb

        lines = map(str, duckdb.read_parquet(str(path)).fetchall())
        return list(lines)
    text = path.read_bytes().decode("utf-8", "backslashreplace")
    for pattern, name in VARIES:
        text = re.sub(pattern, name, text)
    return text.splitlines()


def compare(folder: Path, expected: Sequence[str], lines: int) -> tuple[int, list[str]]:
    """Print what differs. Returned: how much differs unexpectedly, and the pages that differ."""
    before, now = outputs(folder / "was"), outputs(folder / "now")
    unexpected, pages = 0, []
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now:
            diff = [f"only {'was' if name in before else 'now'}"]
        elif before[name].read_bytes() == now[name].read_bytes():
            continue
        else:
            old, new = words_of(before[name]), words_of(now[name])
            diff = list(difflib.unified_diff(old, new, "was", "now", n=1, lineterm=""))
            if "html" in name or name.endswith(".svg"):
                pages.append(name)
        if not diff:
            continue
        is_expected = any(fnmatch(name, f"*{pattern}*") for pattern in expected)
        unexpected += not is_expected
        print(f"{'expected' if is_expected else 'DIFFERS'}: {name}")
        for line in diff[:lines] if not is_expected else ():
            print(f"    {line[:200]}")
        if len(diff) > lines and not is_expected:
            print(f"    ... {len(diff) - lines} more lines")
    print(f"{len(before.keys() | now.keys())} outputs, {unexpected} of which differ unexpectedly")
    return unexpected, pages


def take_pictures(folder: Path, names: Sequence[str]) -> None:
    """Screenshots of pages and charts of both sides at 1280 and 390 pixels, to be looked at."""
    from playwright.sync_api import sync_playwright

    seen = folder / "seen"
    seen.mkdir()
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for number, name in enumerate(names):
            for side in ("was", "now"):
                page_file = seen / f"{number}-{side}{'.svg' if name.endswith('.svg') else '.html'}"
                shutil.copyfile(folder / side / name, page_file)
                for width in (1280, 390):
                    view = {"width": width, "height": 800}
                    page = browser.new_page(viewport=view, offline=True)  # type: ignore[arg-type]
                    page.goto(page_file.as_uri())
                    page.screenshot(path=page_file.with_suffix(f".{width}.png"), full_page=True)
                    page.close()
            print(f"{seen}/{number}-*.png: {name}")
        browser.close()


def main() -> int:
    """Run both sides and compare them; 1 if an output differs that was not expected to."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("base", nargs="?", default="main", help="the revision before the change")
    parser.add_argument("--only", action="append", default=[], help="command lines that hold this")
    parser.add_argument("--expect", action="append", default=[], help="outputs that may differ")
    parser.add_argument("--lines", type=int, default=12, help="lines of each difference to print")
    parser.add_argument("--pictures", action="store_true", help="screenshots of pages that differ")
    given = parser.parse_args()
    if not (BUILT / "stores" / "made").exists():
        subprocess.run([sys.executable, "-m", "tests.golden.stores", BUILT / "stores"], check=True)
    shutil.rmtree(BUILT / "sides", ignore_errors=True)
    with tempfile.TemporaryDirectory() as base:
        archive = subprocess.run(
            ["git", "archive", given.base], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "x", "-C", base], input=archive.stdout, check=True)
        sides = (Path(base), BUILT / "sides" / "was"), (ROOT, BUILT / "sides" / "now")
        running = [started(code, folder, given.only) for code, folder in sides]
        codes = [process.wait() for process in running]
    if any(codes):
        return 2
    unexpected, pages = compare(BUILT / "sides", given.expect, given.lines)
    if given.pictures and pages:
        take_pictures(BUILT / "sides", pages)
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main())
