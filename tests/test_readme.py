"""The documentation is executed: every bash and python block, in order, file by file.

Blocks run in one folder that holds a small store captured from the packaged model, made once.
A block that could not run here (it downloads a model, or needs a GPU) is marked
`<!-- not executed: why -->` on the line before it; the mark is part of what readers see in the
source, and the reason is checked to be one of a few. A `text` block shows what the block before it
printed, or some lines of that, and is compared by value.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from printed import differences
from warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "AGENTS.md", "SECURITY.md", "benchmarks/README.md"),
    "tests/README.md",
    *(f"{p}/README.md" for p in ("store", "capture", "analyze", "sql")),
    *PAGES,
]
REASONS = {
    *("downloads a model", "makes the environment", "needs a GPU", "needs a cluster"),
    *("opens a shell", "needs a corpus with labels"),
    *("needs another library", "needs a web server, or the hub", "needs the hub"),
    "needs the folders of a training",  # tests/test_training.py
    "needs the quickstart store",  # tests/analyze/test_quickstart.py
}

SHOWN_BY = {
    "Python 3.11 is enough; neither torch": "tests/test_packaging.py",
    "`quickstart` asks what a model uses": "tests/analyze/test_quickstart.py",
    "One command captures a model and its": "tests/capture/test_compare.py",
    "as a gate in CI": "tests/capture/test_ci_gate.py",
    "compare with baselines": "tests/analyze/test_probe.py",
    "train on single hidden states": "tests/trainers/test_autoencoders.py",
    "students and": "tests/capture/test_notebook.py",
    "draft models": "tests/trainers/test_speculators_in_place.py",
    "at random, each row once": "tests/store/feed/test_rows.py",
    "It prints, among other things": "tests/capture/test_demo.py",
    "is the standard error over prompts": "tests/analyze/test_jackknife.py",
    "One forward pass gives all prefixes": "tests/test_end_to_end.py",
    "Repeat a stopped command to resume it": "tests/capture/test_kills.py",
    "`--dry-run` prints disk, memory and time": "tests/capture/test_dry_run.py",
    "call `capture(model, tokenizer, texts": "tests/capture/test_from_python.py",
    "`make docs` builds all of it as a site": "tests/analyze/browser/test_site.py",
    "For prompts of 200 tokens, all sites": "tests/capture/test_cost_table.py",
    "`lpp-capture eval` runs lm-eval": "tests/capture/test_evaluation_command.py",
    "You can [store rows]": "tests/collectors/test_collectors.py",
    "Writing hidden states and entropies": "tests/capture/test_peers.py",
    "also run on a simulated card": "tests/test_simulated_card.py",
}
"""Claims of the README, and the tests that run the command behind each."""

FENCE = re.compile(
    r"(?:<!-- not executed: (?P<why>[^>]+?) -->\n)?"
    r"^```(?P<language>bash|python|text)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

FILE = re.compile(r"`((?:\.\./)?[a-z_]+/(?:[a-z_]+/)*[a-z_]+\.py)`")
"""A file of the project, by its path from the document or from the root."""


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block of a document."""

    document: str
    line: int
    language: str
    code: str
    why_not: str | None


def code_blocks(document: str) -> Iterator[CodeBlock]:
    """Every bash, python or text block, in order."""
    text = (ROOT / document).read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield CodeBlock(document, line, match["language"], match["code"], match["why"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_reasons_for_not_executing_are_known(document: str) -> None:
    for block in code_blocks(document):
        assert block.why_not is None or block.why_not in REASONS, f"{document}:{block.line}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    path = ROOT / document
    named = FILE.findall(path.read_text())
    missing = [n for n in named if not any((d / n).is_file() for d in (path.parent, ROOT))]
    assert not missing, document


@pytest.mark.parametrize("claim", SHOWN_BY)
def test_a_claim_of_the_readme_has_tests(claim: str) -> None:
    assert claim in (ROOT / "README.md").read_text()
    assert "def test_" in (ROOT / SHOWN_BY[claim]).read_text()


def executed(document: str) -> list[CodeBlock]:
    """Blocks that are executed, and text blocks that show what these printed."""
    found: list[CodeBlock] = []
    run = False
    for block in code_blocks(document):
        run = run if block.language == "text" else block.why_not is None
        found += [block] if run else []
    return found


SHOWN = [d for d in DOCUMENTS if executed(d)]


def test_most_documents_show_something_that_runs() -> None:
    assert {f"{p}/README.md" for p in ("store", "capture", "analyze", "sql")} < set(SHOWN)
    assert len(SHOWN) > 15


def test_every_output_that_is_shown_is_compared() -> None:
    shown = [
        (document, block in executed(document))
        for document in DOCUMENTS
        for block in code_blocks(document)
        if block.language == "text"
    ]
    # in their order: those of `quickstart`, tests/analyze/test_quickstart.py; of `make demo`,
    # tests/capture/test_demo.py; of vLLM, tests/capture/vllm
    shown_elsewhere = {"README.md": 4, "docs/how-to/two-engines.md": 3}
    assert (
        Counter(document for document, is_compared in shown if not is_compared) == shown_elsewhere
    )
    assert ("docs/how-to/evaluation.md", True) in shown


@pytest.mark.parametrize("document", SHOWN)
def test_blocks_run(
    document: str, documented_store: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    shutil.copytree(documented_store, tmp_path / "demo")
    (tmp_path / "lpp").symlink_to("demo")  # the name that the text gives to a user's own store
    programs = [str(warm_python.programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    more = {"PATH": os.pathsep.join(programs), "STORE": "demo", "COLUMNS": "80"}
    strict = "import warnings; warnings.simplefilter('error')\n"
    printed = ""
    for block in executed(document):
        if block.language == "text":
            found = differences(block.code, printed)
            assert not found, "\n".join([f"{document}:{block.line}", *found])
            continue
        if block.language == "python":
            code = strict * bool(os.environ.get("LPP_NO_WARNING")) + block.code
            done = warm_python.run(code, folder=tmp_path, more=more)
        else:
            command = ["bash", "-euo", "pipefail", "-c", block.code]
            done = subprocess.run(
                command, cwd=tmp_path, env={**os.environ, **more}, capture_output=True, check=False
            )
        assert done.returncode == 0, (
            f"{document}:{block.line}\n{block.code}\n{done.stderr.decode()}"
        )
        printed = done.stdout.decode()
