"""The documents hold together: links lead somewhere, no page is lost, the reference is complete."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from types import ModuleType

import click
import pytest
import yaml

from lpp.analyze import METRICS
from lpp.analyze.metrics.registry import QUANTITIES
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.sql.schema import EVERY

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs" / "site"
DOCUMENTS = sorted(
    {
        path
        for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/*.ipynb", "*/*.md")
        for path in ROOT.glob(pattern)
        if path.parent.name != ".pytest_cache"
    }
)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<file>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
RANKS = ("participation ratio", "effective rank")
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    words = re.sub(r"[^\w\s-]", "", heading.strip().lower())
    return re.sub(r"\s+", "-", words)


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(found) for found in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def broken_links(path: Path) -> Iterator[str]:
    for match in LINK.finditer(CODE.sub("", path.read_text("utf-8"))):
        target = (path.parent / match["file"]).resolve() if match["file"] else path
        known = anchors(target) if target.suffix == ".md" and target.exists() else set()
        if not target.exists() or (match["anchor"] and match["anchor"] not in known):
            yield match[0]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    assert list(broken_links(path)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](#one-two) [b](#three) [c](none.md) `[d](none.md)`\n")
    assert list(broken_links(page)) == ["](#three)", "](none.md)"]


def pages_of(entries: list[dict[str, object]]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                assert isinstance(value, list)
                yield from pages_of(value)


def test_every_page_is_in_the_navigation() -> None:
    listed = list(pages_of(SETTINGS["nav"]))
    assert len(listed) == len(set(listed))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert written < set(listed)


def test_the_picture_of_ranks_shows_what_the_code_beside_it_prints() -> None:
    page = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    picture = (ROOT / "docs" / "pictures" / "rank.svg").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    printed = subprocess.run([sys.executable, "-c", code], stdout=PIPE, text=True, check=True)
    ranks = (re.findall(rf">{name} ([\d.]+)<", picture) for name in RANKS)
    assert printed.stdout.split() == [
        number for pair in zip(*ranks, strict=True) for number in pair
    ]


def test_every_number_says_what_it_is_and_how_it_misleads() -> None:
    for one in QUANTITIES:
        assert one.unit, one.name
        assert one.definition, one.name
        assert one.source, one.name
    for one in (*METRICS.values(), *PREDICTIONS.values(), *SITE_CHANGES.values()):
        assert one.trap.endswith("."), one.name


def site_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.ipynb")), ids=lambda path: path.stem)
def test_a_tutorial_has_the_cells_and_what_they_showed(path: Path) -> None:
    text, pictures = site_module("notebook").as_markdown(path)
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert text.startswith("# ")
    assert all("".join(cell["source"]) in text for cell in cells)
    assert pictures
    assert all(f"](pictures/{name})" in text for name in pictures)
    assert all(data.startswith(b"<svg") for data in pictures.values())
    assert text.count("```text\n") >= 3


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return site_module("reference")


@pytest.fixture(scope="module")
def made(reference: ModuleType) -> dict[str, str]:
    return dict(reference.pages())


def test_the_reference_pages_are_those_of_the_navigation(made: dict[str, str]) -> None:
    listed = {page for page in pages_of(SETTINGS["nav"]) if page.startswith("reference/")}
    assert listed - made.keys() == {"reference/sql-tables.md", "reference/store-format.md"}
    assert made.keys() < listed


@pytest.mark.parametrize("package", ["capture", "analyze"])
def test_the_reference_has_every_command_and_option(package: str, made: dict[str, str]) -> None:
    main = importlib.import_module(f"lpp.{package}.cli.command").main
    text = made[f"reference/lpp-{package}.md"]
    for name, command in main.commands.items():
        assert f"## lpp-{package} {name}\n" in text
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert max(option.opts, key=len) in text


def test_the_reference_has_every_table_and_column() -> None:
    text = (ROOT / "docs" / "reference" / "sql-tables.md").read_text("utf-8")
    shared = text.partition("## Shared columns\n")[2].partition("\n## ")[0]
    for table in EVERY:
        section = text.partition(f"## {table.name}\n")[2].partition("\n## ")[0]
        assert section
        (also,) = re.findall(r"^Shared columns: (.*)\.$", section, re.MULTILINE) or [""]
        errors = {
            number + end
            for ends, numbers in re.findall(r"^Errors \((.*)\): (.*)\.$", section, re.MULTILINE)
            for number in re.findall(r"\w+", numbers)
            for end in re.findall(r"\w+", ends)
        }
        for column in table.columns:
            row = f"| `{column.name}` | {column.type}"
            in_shared = f"`{column.name}`" in also and row in shared
            assert (row in section) + in_shared + (column.name in errors) == 1, column.name


def test_the_page_on_metrics_has_each_once_with_its_trap() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    of_runs, _, of_pairs = text.partition("## Items")[0].partition("## Two runs")
    every = [(of_runs, METRICS), (of_pairs, {**PREDICTIONS, **SITE_CHANGES})]
    for part, (name, metric) in ((part, one) for part, some in every for one in some.items()):
        if name.startswith(("zscore_", "robust_")) and name.endswith("_norm"):
            continue  # a sentence says what they are
        entry = f"- **`{name}`** ({metric.unit}): "
        assert sum(line.startswith(entry) for line in part.splitlines()) == 1, name


def test_the_tables_that_are_committed_are_those_of_the_code(reference: ModuleType) -> None:
    marked = {path for path in DOCUMENTS if "<!-- table: " in path.read_text("utf-8")}
    pages = {ROOT / "docs" / page for page in reference.WITH_TABLES}
    assert pages == {path for path in marked if path.is_relative_to(ROOT / "docs")}
    for path in pages:
        text = path.read_text("utf-8")
        assert reference.with_tables(text) == text, "`make tables` writes the tables again"


def test_every_formula_is_one_of_the_page_on_metrics() -> None:
    module = site_module("formulas")
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    formulas = (part for tex in module.FORMULAS.values() for part in tex.split(module.NEXT))
    assert {*formulas} <= {*page.split("$")}
    assert "lambda" not in re.sub(r"\\lambda", "", page.partition("## Items")[0])


def test_the_address_of_the_project_is_said_in_one_place(reference: ModuleType) -> None:
    """Setting it there is enough: every file that shows it is made from the setting."""
    for name in reference.WITH_ADDRESS:
        text = (ROOT / name).read_text("utf-8")
        assert reference.with_address(name, text, reference.address()) == text, "`make tables`"
        for url in ("https://host.example/a/b", "https://other.example/c"):
            text = reference.with_address(name, text, url)
            assert text.count(url) == 1, name
        assert "host.example" not in text
        assert reference.with_address(name, text, None).count("other.example") == 0
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert not any(word in site for word in ("repo_url", "site_url", "edit_uri"))
