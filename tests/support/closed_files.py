"""Files that are closed to this process, also where root runs the tests."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_VERSION: Final = 0x20080522
"""Of Linux's capability sets: two words of 32 bits each for what is effective and so on."""
_PASSES: Final = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: the modes of files do not matter."""


@contextmanager
def closed(path: Path) -> Iterator[None]:
    """Until the block ends this thread, and those that it starts, may not read `path`."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    held, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    mode = path.stat().st_mode
    assert libc.capget(header, held) == libc.capget(header, without) == 0
    without[0] &= ~_PASSES
    path.chmod(0)
    assert libc.capset(header, without) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0
        path.chmod(mode)
