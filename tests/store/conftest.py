"""A small run of distinct values, shared by the tests of the store."""

from pathlib import Path

import pytest
from small_capture import Capture, make_capture

from lpp.store import Run


@pytest.fixture
def capture() -> Capture:
    """Four prompts, three shards, three sites of width 4 in bfloat16."""
    return make_capture()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "store"


@pytest.fixture
def run(capture: Capture, root: Path) -> Run:
    """The capture, written whole."""
    return capture.write(root)
