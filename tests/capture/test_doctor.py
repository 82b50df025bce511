"""`lpp-capture doctor`: each line against the system that it describes."""

import os
import re
import resource
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lpp.capture.cli import doctor as command
from lpp.capture.cli.command import main
from lpp.capture.models import device
from lpp.capture.models.device import choose_device
from lpp.store import create_store


def ask(*words: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, words)])


def lines(*words: object) -> list[str]:
    """What the command prints, with folded lines made whole. A path may be longer than a line."""
    result = ask(*words)
    assert result.exit_code == 0, result.output
    printed = result.stdout.splitlines()
    assert max(len(line) for line in printed if " " in line.strip()) <= 80
    return "\n".join(printed).replace("\n  ", " ").splitlines()


def the_line(found: list[str], start: str) -> str:
    (line,) = [line for line in found if line.startswith(start)]
    return line


def bytes_of(text: str) -> float:
    """The first size in a line, in bytes."""
    match = re.search(r"([\d.]+) ([kMGT])B", text)
    assert match is not None, text
    return float(match[1]) * 1000.0 ** " kMGT".index(match[2])


@pytest.mark.slow
def test_each_line_is_the_systems(tmp_path: Path) -> None:
    found = lines("--store", tmp_path / "lpp")
    assert len(found) <= 12
    releases = the_line(found, "Python ")
    for name in ("lpp-engine", "torch", "transformers"):
        assert f"{name} {version(name)}" in releases
    cores = re.search(r"(\d+) cores?", the_line(found, "cpu: "))
    assert cores is not None
    assert 1 <= int(cores[1]) <= len(os.sched_getaffinity(0))
    meminfo = Path("/proc/meminfo").read_text("ascii")
    total = int(re.findall(r"MemTotal: *(\d+)", meminfo)[0]) * 1024
    assert 0 < bytes_of(the_line(found, "cpu: ")) <= total * 1.01
    assert f" {choose_device()[0]}: " in the_line(found, "--device auto")
    pace, free = (
        the_line(found, "disk of ").removeprefix(f"disk of {tmp_path / 'lpp'}: ").split(", ")
    )
    assert bytes_of(pace) > 0
    assert bytes_of(free) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


@pytest.mark.parametrize("there", [False, True])
def test_the_file_is_written_whole_and_gone(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the store while there is none, else in its folder."""
    if there:
        create_store(tmp_path / "lpp")
    before = sorted(tmp_path.rglob("*"))
    flushed: list[tuple[int, int]] = []

    def fsync(fd: int) -> None:
        flushed.append((os.fstat(fd).st_size, os.fstat(fd).st_dev))

    monkeypatch.setattr(os, "fsync", fsync)
    lines("--store", tmp_path / "lpp")
    assert (command.WRITTEN, tmp_path.stat().st_dev) in flushed
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WRITTEN", shutil.disk_usage(tmp_path).total)
    assert not [line for line in lines("--store", tmp_path / "lpp") if line.startswith("disk")]


def test_without_torch_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = lines("--store", tmp_path)
    (line,) = [line for line in found if line.startswith("missing") and "'torch>=" in line]
    assert "torch" in line
    assert "cpu" in the_line(found, "--device auto")


@pytest.mark.slow
def test_a_card_that_torch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver is there: here a file stands for it."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(device, "_DRIVERS", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    line = the_line(lines("--store", tmp_path / "lpp"), "--device auto")
    assert "takes cpu" in line
    assert str(tmp_path / "nvidiactl") in line


CARDS = """
from click.testing import CliRunner
from simulated_card import card

from lpp.capture.cli.command import main
from lpp.capture.models import device

device.KINDS["sim"], device._DRIVERS = device.KINDS["cuda"], ("/",)
with card.fresh():
    card.cards, card.capacity = 2, 3 << 30
    print(CliRunner().invoke(main, ["doctor"]).output)
"""


@pytest.mark.slow
def test_every_card_with_its_memory(tmp_path: Path) -> None:
    """In a process of its own: the simulated card stays with PyTorch."""
    support = Path(__file__).parents[1] / "support"
    words = [sys.executable, "-c", CARDS]
    env = {**os.environ, "PYTHONPATH": str(support)}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    found = done.stdout.replace("\n  ", " ").splitlines()
    for number in (0, 1):
        line = the_line(found, f"sim:{number}: ")
        assert bytes_of(line.partition(" of ")[2]) == pytest.approx(3 << 30, rel=0.01)
        assert "bfloat16" in line
        assert "fails" not in line
    assert the_line(found, "--device auto").split()[3] == "sim:"
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    line = the_line(found, "limit of page-locked memory: ")
    if limit != resource.RLIM_INFINITY:
        assert bytes_of(line) == pytest.approx(limit, rel=0.01)


@pytest.mark.slow
def test_a_library_that_does_not_load_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise OSError('libcudart.so.99: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    found = lines("--store", tmp_path / "lpp")
    assert any("libcudart.so.99" in line for line in found if line.startswith("missing"))


def test_a_place_that_cannot_be_written_is_missing() -> None:
    found = lines("--store", "https://server/lpp")
    assert any("https://server/lpp" in line for line in found if line.startswith("missing"))
    assert not [line for line in found if line.startswith("disk")]


@pytest.mark.parametrize("kind", ["occupied", "file", "address"])
def test_bad_input_is_one_message(kind: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    where = {
        "occupied": tmp_path,
        "file": tmp_path / "notes.txt",
        "address": "https://user:secret@server/lpp",
    }[kind]
    result = ask("--store", where)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "secret" not in result.output
