"""docs/how-to/elsewhere.md: a store read by other programs, in processes that cannot import lpp."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from node_packages import node_modules

from lpp.store import open_store

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-to" / "elsewhere.md"
BLOCK = re.compile(
    r"(?P<mark><!-- not executed: .{20,} -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = {block["language"]: block for block in BLOCK.finditer(PAGE.read_text("utf-8"))}
PROGRAMS = {
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "--eval"],
    "bash": ["bash", "-euc"],
}


def test_each_block_is_executed_or_says_why_not() -> None:
    assert {name for name, block in BLOCKS.items() if not block["mark"]} == set(PROGRAMS)


@pytest.fixture
def folder(documented_store: Path, tmp_path: Path) -> Path:
    """The store `demo`, the packages of node, and an `lpp` that cannot be imported."""
    shutil.copytree(documented_store, tmp_path / "demo")
    (tmp_path / "node_modules").symlink_to(node_modules(ROOT / "tests" / "store" / "foreign"))
    (tmp_path / "lpp.py").write_text("raise ImportError('this process has no lpp')\n")
    return tmp_path


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_block_reads_what_lpp_reads(folder: Path, language: str) -> None:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*PROGRAMS[language], BLOCKS[language]["code"]],
        cwd=folder,
        env={**os.environ, "PATH": programs, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = open_store(folder / "demo").run("*q4-1-????????")
    assert str(rank_of(folder / "demo", run.id)) in done.stdout
    if language == "bash":
        return
    tokens = run.tokens().to_table().to_pydict()
    of_prompt = np.flatnonzero(np.array(tokens["prompt_id"]) == 3)
    numbers = re.findall(r"\d+(?:\.\d+)?", done.stdout)
    assert numbers[:2] == [str(len(of_prompt)), str(run.array("block.15").shape[1])]
    assert numbers[2:7] == [str(tokens["token_id"][row]) for row in of_prompt[:5]]
    rows = np.asarray(run.array("block.15")[of_prompt[0] : of_prompt[-1] + 1])
    assert (folder / "rows.f32").read_bytes() == rows.tobytes()


def rank_of(store: Path, run: str) -> float:
    from lpp.sql import connect

    with connect(store) as database:
        found = database.execute("SELECT effective_rank FROM profiles WHERE run = ?", [run])
        (rank,) = found.fetchone() or (None,)
    assert isinstance(rank, float)
    return rank
