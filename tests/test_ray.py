"""Ray: the same bits as one process, with a node lost on the way, and nothing left behind."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[1]
NODES = ROOT / "tests" / "support" / "ray_nodes.py"
GONE_SECONDS = 20.0
"""For what Ray started to end once it was told to."""

Nodes = Callable[..., Mapping[str, Any]]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """For a process that starts Ray: all that comes of it can be told by the token."""
    token = f"lpp{secrets.token_hex(16)}"
    folder = tempfile.mkdtemp(prefix="lpp-", dir="/tmp")  # sockets need short paths
    yield {
        **os.environ,
        "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": folder,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "80",
    }
    left = carrying(token)
    until = time.monotonic() + GONE_SECONDS
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = carrying(token)
    for pid in left:
        os.kill(pid, 9)
    shutil.rmtree(folder, ignore_errors=True)
    assert left == [], "processes that Ray left behind"


def carrying(token: str) -> list[int]:
    """Processes of this machine that were started with `token`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if token.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def nodes(environment: dict[str, str]) -> Nodes:
    """`nodes("analysis", folder)`: what two nodes told at the end, one of them killed midway."""

    def run(*words: object) -> Mapping[str, Any]:
        done = subprocess.run(
            [sys.executable, str(NODES), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        told: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    return run


def test_analysis_with_a_node_lost_has_the_bits_of_one_process(
    nodes: Nodes, tmp_path: Path
) -> None:
    told = nodes("analysis", tmp_path)
    assert told["killed"] > 0
    assert told["alive"] == 1
    assert told["rows"] == 2 * 10 * 2  # sites, prefixes, numbers of prompts


@pytest.mark.soak
def test_analysis_of_many_spans_with_a_node_lost(nodes: Nodes, tmp_path: Path) -> None:
    assert nodes("analysis", tmp_path, 80)["alive"] == 1
