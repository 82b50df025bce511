"""The blocks of this package's README run, each by itself, on a store in `demo`."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from lpp.store import open_store

README = Path(__file__).resolve().parents[2] / "store" / "README.md"


def test_blocks_run(capture: Any, tmp_path: Path) -> None:
    run = capture.write(tmp_path / "demo")
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        command = [sys.executable, "-W", "error", "-c", block]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    (copy,) = open_store(tmp_path / "other").runs.values()
    assert (copy.sites, copy.verify()) == (("final",), [])
    values = [block.values.tobytes() for site in (run, copy) for block in site.blocks("final")]
    assert b"".join(values[:3]) == values[3]
