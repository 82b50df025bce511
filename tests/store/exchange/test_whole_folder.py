"""An export appears whole, from one process; what one that was killed left is gone on with."""

import errno
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from exchanged import LENGTHS, WIDTH, write_run
from faulty_disk import FaultyDisk
from on_disk import on_disk

from lpp.store import Run
from lpp.store.errors import ConflictError, ErrorKind, InputError, MachineError
from lpp.store.exchange import selection
from lpp.store.exchange.export import export
from lpp.store.exchange.import_states import import_states


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run") / "store")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "PART_BYTES", 2 * WIDTH * 12)  # 12 tokens


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("sites", [["block.2"], ["block.3"]])
def test_of_two_exports_into_one_folder_one_wins(
    run: Run, tmp_path: Path, sites: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins after the first has written a part, and ends before it."""
    out, inner = tmp_path / "x", selection.Exported.part
    begun = list[int]()

    def part(self: selection.Exported, start: int, end: int) -> selection.PromptPart:
        begun.append(start)
        if len(begun) == 2:
            export(run, "safetensors", out, sites=sites)
        return inner(self, start, end)

    monkeypatch.setattr(selection.Exported, "part", part)
    with pytest.raises(ConflictError, match="another") as raised:
        export(run, "safetensors", out, sites=["block.2"])
    assert raised.value.kind is ErrorKind.IN_USE
    assert names(tmp_path) == ["x"]
    imported = import_states(out, "safetensors", tmp_path / "s")
    assert imported.sites == tuple(sites)
    assert imported.plan.prompts.count == len(LENGTHS)


PROGRAM = """
import os, signal, sys
from lpp.store import Run
from lpp.store.exchange import selection
from lpp.store.exchange.export import export
from pathlib import Path
selection.PART_BYTES = int(sys.argv[3])
inner = selection.Exported.part
def part(self, start, end):
    if start:
        print("written", flush=True)
        sys.stdin.readline()
    return inner(self, start, end)
selection.Exported.part = part
export(Run(Path(sys.argv[1])), "safetensors", Path(sys.argv[2]), sites=["block.2"])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_a_killed_export_is_gone_on_with_and_a_live_one_is_left_alone(
    run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    words = [sys.executable, "-c", PROGRAM, on_disk(run.path), out, selection.PART_BYTES]
    with subprocess.Popen(
        [*map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        with pytest.raises(ConflictError, match=str(other.pid)):
            export(run, "safetensors", out, sites=["block.2"])
        (partial,) = tmp_path.iterdir()
        before = (partial / "part-00000.safetensors").stat().st_mtime_ns
        other.send_signal(signal.SIGKILL)
    export(run, "safetensors", out, sites=["block.2"])
    assert names(tmp_path) == ["x"]
    assert (out / "part-00000.safetensors").stat().st_mtime_ns == before
    assert import_states(out, "safetensors", tmp_path / "s").plan.prompts.count == len(LENGTHS)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_at_any_step_leaves_no_folder(
    run: Run, tmp_path: Path, code: int
) -> None:
    failed = 0
    for step in range(1, 100, 3):
        home = tmp_path / str(step)
        disk = FaultyDisk(home, fail_at=step, code=code)
        with suppress(MachineError), disk.in_force():
            export(run, "safetensors", home / "x", sites=["block.2"])
        if not disk.failed:
            break
        failed += 1
        assert not (home / "x").exists()
        export(run, "safetensors", home / "x", sites=["block.2"])
        assert names(home) == ["x"]
    assert failed > 2


@pytest.mark.parametrize("what", ["file", "link", "folder", "store", "in the store"])
def test_what_is_there_is_left_alone(run: Run, tmp_path: Path, what: str) -> None:
    out, store = tmp_path / "x", on_disk(run.path).parents[1]
    if what == "file":
        out.write_text("mine")
    elif what == "link":
        out.symlink_to(tmp_path / "nowhere")
    elif what == "folder":
        out.mkdir()
    else:
        out = store / "x" if what == "in the store" else store
    before = names(tmp_path), names(store)
    with pytest.raises(InputError) as raised:
        export(run, "parquet", out)
    assert raised.value.kind is ErrorKind.INVALID_VALUE
    assert (names(tmp_path), names(store)) == before
