"""Settings of the C library's allocator for capture and analysis: steady memory, few page faults.

glibc raises its own thresholds as large blocks are freed (`man 3 mallopt`, M_MMAP_THRESHOLD): from
then on blocks of megabytes come from heaps that cannot shrink while anything lies above them. Every
block of rows and every chunk, packed or unpacked, is such a block, on several threads. Live memory
is the same at ten times the rows, resident memory was not. A threshold that is set stays where it
is.

Analysis has matrices of all sizes and wants them given back. Capture has the same few blocks for
every chunk, and taking their pages from the system again and again costs half of what compressing
with Blosc does: 1.9 ns of a core a byte against 1.3.
"""

import ctypes
import platform
from typing import Final

M_MMAP_THRESHOLD: Final = -3  # of <malloc.h>
M_TRIM_THRESHOLD: Final = -1

OWN_MAPPING_BYTES: Final = 4 << 20
"""Blocks of this size or more are mapped, and returned to the system when freed. This costs page
faults: a twentieth of the processor time of a profile."""


_KEPT_BYTES: Final = 16 << 20
"""Freed memory that each heap keeps for the next matrices. Allocating it from the system each time
is slow: a profile of 64 sites took 18.5 s without this setting, 15.3 s with 16 MiB."""


LARGEST_BLOCK_BYTES: Final = 32 << 20
"""The largest threshold that glibc takes."""

KEPT_WHILE_ENCODING: Final = 64 << 20
"""Freed memory that each encoder's heap keeps at most; it has 5 MiB in use."""


def give_blocks_back() -> bool:
    """Return blocks of `OWN_MAPPING_BYTES` to the system when they are freed, in this process;
    False if the C library is not glibc.
    """
    return _fix_thresholds(OWN_MAPPING_BYTES, _KEPT_BYTES)


def keep_blocks() -> bool:
    """Keep the blocks of encoders for the next chunk, in this process; False if the C library is
    not glibc.
    """
    return _fix_thresholds(LARGEST_BLOCK_BYTES, KEPT_WHILE_ENCODING)


def _fix_thresholds(mapped_bytes: int, kept_bytes: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, mapped_bytes) and mallopt(M_TRIM_THRESHOLD, kept_bytes))
