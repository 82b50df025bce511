"""Every question answers with one page: the same numbers in every format, 80 columns, no markup."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from evaluated_items import evaluated_run
from html_words import html_words
from made_runs import MakeRun
from rich.cells import cell_len

from lpp.analyze.cli.command import main
from lpp.analyze.pages.table import PARTS
from lpp.analyze.pages.words import STYLES

NUMBER = re.compile(r"(?<![\w.\-])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?(?![\w.])")


@pytest.fixture
def store(make_run: MakeRun) -> tuple[Path, list[str]]:
    """A store with an evaluated run and two runs over the same texts; their ids."""
    lengths = (12, 7, 20, 20, 3, 15, 9, 11)
    first = make_run(lengths, model="org/base|model", vary_tokens=True)
    other = make_run(lengths, model="org/other<b>", seed=1, vary_tokens=True)
    items = evaluated_run(make_run)
    return first.root, [first.run_id, other.run_id, items.made.run_id]


def questions(root: Path, runs: list[str]) -> Iterator[tuple[str, list[str]]]:
    pair = runs[:2]
    yield "profile", ["profile", str(root), *pair, "--metrics", "rankme,surprisal"]
    yield "layers", ["layers", str(root), *pair]
    yield "cka", ["cka", str(root), *pair]
    yield "diff", ["diff", str(root), runs[0], runs[1], "--fail-if", "flips > 0.999"]
    yield "against", ["diff", str(root), "--against", runs[0], runs[1]]
    yield "items", ["items", str(root), "--task", "tiny_task", runs[2]]


def told(arguments: list[str]) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


@pytest.mark.slow
def test_every_question_in_every_format(store: tuple[Path, list[str]], tmp_path: Path) -> None:
    for name, question in questions(*store):
        text, whole = told(question), told([*question, "--all"])
        for line in whole.splitlines():
            assert cell_len(line) <= 80 or str(store[0]) in line, (name, line)
        assert "…" not in re.sub(r"…\w", "", "".join(whole.split("  "))) or name in {
            "diff",
            "items",
        }
        asked_for = 10 * (name in {"profile", "diff"})  # --metrics and --fail-if add a table
        assert len(text.splitlines()) <= 40 + asked_for, name
        page = tmp_path / f"{name}.html"
        told([*question, "-o", str(page)])
        words, tags = html_words(page.read_text())
        assert "b" not in tags, name
        md = told([*question, "--format", "md", "--all"])
        in_html = {*NUMBER.findall(words), *_data(page.read_text())}
        for form, shown in (("text", text), ("md", md)):
            lost = {*NUMBER.findall(_tables(shown))} - in_html
            assert not lost, (name, form, lost)
        raised = {*re.findall("[¹²³⁴⁵⁶⁷⁸⁹]+", text)}
        assert not raised or "[1] " in text, name
        document = json.loads(told([*question, "--format", "json"]))
        assert document, name
        csv = told([*question, "--format", "csv"]).splitlines()
        assert len(csv) > 1, name
        assert len({line.count(",") for line in csv[:1]}) == 1, name


def _tables(text: str) -> str:
    """Lines that belong to tables, with two numbers or more; without errors, in whose place a
    browser shows intervals, and without the count of the rows that a text shows.
    """
    text = re.sub(r"± ?[\d.,e-]+|: \d+ of \d+ rows", "", text)
    return "\n".join(line for line in text.splitlines() if len(NUMBER.findall(line)) > 1)


def _data(page: str) -> Iterator[str]:
    """The numbers of all rows of all tables: a page shows 25 rows at a time."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    for table in json.loads(data)["tables"].values():
        for column in table["columns"]:
            for part in ("values", *PARTS):
                yield from (STYLES[column["style"]](value) for value in column.get(part, ()))


@pytest.mark.slow
def test_text_needs_no_chart_library(store: tuple[Path, list[str]]) -> None:
    root, runs = store
    code = (
        "import sys; sys.modules['altair'] = None; sys.modules['vl_convert'] = None\n"
        "from lpp.analyze.cli.command import main\n"
        "for words in {words!r}:\n"
        "    main(words, standalone_mode=False)\n"
    )
    words = [question for _, question in questions(root, runs)]
    done = subprocess.run(
        [sys.executable, "-c", code.format(words=words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
