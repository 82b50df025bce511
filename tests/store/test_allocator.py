"""Blocks of megabytes go back to the system when they are freed, whatever was freed before."""

import platform
import subprocess
import sys

import pytest

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
