"""docs/how-to/two-engines.md: its blocks, in order, with fewer prompts than it shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from printed import words
from warm_python import WarmPython

from tests.test_readme import code_blocks

PAGE = "docs/how-to/two-engines.md"


@pytest.mark.timeout(1800)  # four captures and two engines; a shared machine takes ten minutes
def test_the_page_of_two_engines_runs_and_says_what_it_prints(
    tmp_path: Path, warm_python: WarmPython
) -> None:
    """Rounding differs between processors, so shown output is compared without its numbers."""
    programs = os.pathsep.join([str(warm_python.programs), os.environ["PATH"]])
    environment = {**os.environ, "PATH": programs, "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    printed = ""
    for block in code_blocks(PAGE):
        if block.language == "text":
            assert set(words(block.code)) <= set(words(printed)), block.line
            continue
        if "--from logprobs" in block.code:
            continue  # files of an engine: tests/capture/test_logprobs.py makes and imports them
        code = block.code.replace("--prompts 20", "--prompts 3")
        program = ["bash", "-euc"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{PAGE}:{block.line}\n{done.stderr}"
        printed = done.stdout
        if "--rerun" in code:
            assert "differ by more than the rerun at block.15" in " ".join(printed.split())
        if "leaves the null at" in code:
            assert [line.split(": ")[1].split()[0] for line in printed.splitlines()] == [
                *("nowhere", "block.1", "block.15", "block.1")
            ]
