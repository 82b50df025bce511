"""Names and tokens that mean something to a page or a terminal are text in the report."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from made_runs import MakeRun
from report_tables import database, make_store
from terminal import HOSTILE as STEERS
from terminal import SHOWN, steering

from lpp.analyze.report.report import write_report
from lpp.analyze.tables.build import build_database
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.shared.vocabularies import add_vocabulary

HOSTILE = ("<img src=x onerror=alert(1)>", "'; DROP TABLE profiles; --", "</script><script>")


class Texts(HTMLParser):
    """Elements by name, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_hostile_names_are_text_and_links_lead_somewhere(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(HOSTILE, flags=list(HOSTILE[:1])))
    (path,) = write_report(str(store), tmp_path / "report.html")
    page = Texts()
    page.feed(path.read_text())
    assert page.elements.count("script") == 3
    assert "img" not in page.elements
    assert page.handlers == []
    for name in HOSTILE:
        assert name in page.text
    assert len(page.ids) == len(set(page.ids))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert [link for link in page.links if not link.startswith("#")] == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["html", "md"])
def test_no_name_brings_controls_into_a_report(tmp_path: Path, form: Any) -> None:
    tables = database([STEERS, "b"], flags=[STEERS])
    store = make_store(tmp_path / f"it's {STEERS}", tables)
    (path,) = write_report(str(store), tmp_path / f"report.{form}", form)
    text = path.read_text()
    body = re.sub("<script>.*?</script>", "", text, flags=re.DOTALL)  # Vega holds some as text
    assert steering(body) == set()
    assert not {character for character in text if character < " "} - {"\n", "\t"}
    if form == "html":
        page = Texts()
        page.feed(body)
        assert SHOWN in page.text
    else:
        assert SHOWN.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]") in text


def test_markdown_is_a_summary_in_which_names_stay_text(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(["a|b`c\n# d", "<img src=x>"]))
    (path,) = write_report(str(store), tmp_path / "summary.md", "md")
    text = path.read_text()
    assert "\n# d" not in text
    assert "<img" not in re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert len(rows) > 8
    assert len(counts) <= 5  # as many as tables
    sentence = text.split("\n\n")[1]
    assert "by KL 0.01 nats a token" in sentence
    assert "0.22 of ln V" in text
    assert text.index(sentence) < text.index("| run |") < text.index("- `collapsed`")
    assert text.index("- `collapsed`") < text.index("###")
    assert "- database: SHA-256 `" in text


TOKEN = "<script>alert(4)</script> the\n\x1b[2J\u202eabc|*a*`&lt;"
"""What a token may be, at worst."""


def add_words(root: Path, tokenizer: str) -> None:
    """Give the tokens 0 to 98 of a tokenizer texts that mean something to a page."""
    texts = [f"{TOKEN}{token}" for token in range(99)]
    columns = {"id": range(99), "bytes": [text.encode() for text in texts], "text": texts}
    add_vocabulary(root, tokenizer, pa.table(columns).cast(VOCABULARY_SCHEMA))


@pytest.mark.slow
def test_surprising_tokens_are_words_that_mean_nothing_to_a_page(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    build_database(str(run.root))
    (path,) = write_report(str(run.root), tmp_path / "report.html")
    assert "alert(4)" not in path.read_text()
    add_words(run.root, run.plan.tokenizer.fingerprint)
    (path,) = write_report(str(run.root), tmp_path / "report.html")
    text = path.read_text()
    page = Texts()
    page.feed(text)
    assert page.elements.count("script") == 3
    assert "<script>alert(4)</script>␣the\\n\\x1b[2J\\u202eabc|*a*`&lt;" in page.text
    assert steering(re.sub("<script>.*?</script>", "", text, flags=re.DOTALL)) == set()
