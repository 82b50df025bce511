"""How busy other processes keep a machine."""

import os
import time
from pathlib import Path

import pytest

from lpp.capture.engine.run import busy_line
from lpp.store.process import busy

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stat"
    monkeypatch.setattr(busy, "STAT", path)
    return path


def clock(monkeypatch: pytest.MonkeyPatch, seconds: float, own: float) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    monkeypatch.setattr(os, "times", lambda: (own, 0.0, 0.0, 0.0, seconds))


def test_what_others_use_is_all_work_less_ours(
    counters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters.write_text("cpu 100 0 0 900 50 0 0 0 7 0\ncpu0 1 2 3\n")
    clock(monkeypatch, seconds=10.0, own=3.0)
    others = busy.OtherProcesses()
    assert others.cores() is None  # no time has passed
    # in 4 s: 7 s of work, 1 s of it ours; waiting for a disk is no work, a guest's is in the first
    work = [f"{n * TICKS}" for n in (2, 1, 1, 400, 40, 1, 1, 1, 9, 9)]
    work[0] = f"{100 + 2 * TICKS}"
    counters.write_text(f"cpu {' '.join(work)}\n")
    clock(monkeypatch, seconds=14.0, own=4.0)
    assert others.cores() == pytest.approx(6 / 4)


@pytest.mark.parametrize("content", [None, "", "cpu 1 2\n", "other 1 2 3 4 5 6 7 8\n", "cpu a b\n"])
def test_without_counters_nothing_is_known(
    counters: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        counters.write_text(content)
    clock(monkeypatch, seconds=1.0, own=1.0)
    others = busy.OtherProcesses()
    clock(monkeypatch, seconds=9.0, own=1.0)
    assert others.cores() is None


def test_a_line_is_said_where_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert busy_line(None) is None
    assert busy_line(0.5) is None
    assert busy_line(1.04) == (
        "busy machine: other processes use about 1.0 of 4 cores; this pass, with 4 "
        "threads, waits for them"
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # 4 of 64 are ours
    assert busy_line(50.0) is None
