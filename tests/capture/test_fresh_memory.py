"""What fresh memory holds reaches no store: captures and repairs are equal bytes whatever it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stored import object_path, only_run, stored_objects

pytestmark = pytest.mark.slow


def in_fresh_memory(filled_with: int, *words: str) -> str:
    """Run `lpp-capture` where glibc fills every block that it gives out."""
    memory = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_PERTURB_": str(filled_with)}
    command = [str(Path(sys.executable).with_name("lpp-capture")), *words]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **memory}
    )
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_captures_and_repairs_are_equal_bytes(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join("the dog and the fox " * (2 + n % 6) for n in range(60)))
    model = f"--model={tiny_folder('gpt2')}"
    words = ["run", model, f"--corpus={texts}", "--prompts=60"]
    words += ["--min-bytes=0", "--context=40", "--shard-mib=1"]
    words += ["--logit-positions=schedule", "--sites=embed,block.1,final"]
    for filled_with in (85, 170):
        in_fresh_memory(filled_with, *words, f"--store={tmp_path / str(filled_with)}")
    one, other = (only_run(tmp_path / name) for name in ("85", "170"))
    assert one.tokens().to_table()["entropy"].null_count > 0
    assert stored_objects(one.path) == stored_objects(other.path)
    shutil.rmtree(object_path(other.shards[0].path, "tokens.arrow").parent)
    said = in_fresh_memory(15, "repair", str(tmp_path / "170"), model)
    assert "computed again, byte for byte what was committed" in said
    assert stored_objects(one.path) == stored_objects(other.path)
