"""What of its machine a process may use: cores, by any limit; memory that goes back when freed."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lpp.store.arrays import decode_pool


@pytest.mark.parametrize(
    ("cpu_max", "slurm", "cores"),
    [
        (None, {}, 12),
        ("max 100000", {}, 12),
        ("400000 100000", {}, 4),
        ("250000 100000", {}, 2),
        ("50000 100000", {}, 1),
        ("nonsense", {}, 12),
        (None, {"SLURM_CPUS_PER_TASK": "3", "SLURM_STEP_ID": "0"}, 3),
        (None, {"SLURM_CPUS_PER_TASK": "3"}, 12),  # a batch script outside of srun
        ("800000 100000", {"SLURM_CPUS_PER_TASK": "16", "SLURM_STEP_ID": "0"}, 8),
    ],
)
def test_the_least_of_what_was_given_counts(
    cpu_max: str | None,
    slurm: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if cpu_max is not None:
        (tmp_path / "cpu.max").write_text(f"{cpu_max}\n")
    monkeypatch.setattr(decode_pool, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert decode_pool.usable_cores() == cores


PROBE = """
import ctypes, sys
import numpy as np
from lpp.store.process.allocator import give_blocks_back

class Info(ctypes.Structure):  # struct mallinfo2 of <malloc.h>
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mapped = ctypes.CDLL(None).mallinfo2
mapped.restype = Info
if sys.argv[1] == "fixed":
    assert give_blocks_back()
np.empty(24 << 20, np.uint8)  # freed at once: glibc's own threshold rises to its size
before = mapped().hblkhd
block = np.empty(8 << 20, np.uint8)
print(mapped().hblkhd - before >= block.nbytes)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is asked")
@pytest.mark.parametrize(("how", "mapped"), [("fixed", True), ("as it is", False)])
def test_a_block_of_megabytes_is_a_mapping_of_its_own(how: str, mapped: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, how], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(mapped)
