"""What capture and analysis ask of the C library's allocator: steady memory, few page faults.

glibc raises its own thresholds as large blocks are freed (`man 3 mallopt`, M_MMAP_THRESHOLD): from
then on blocks of megabytes come from heaps that cannot shrink while anything lies above them. Every
block of rows and every chunk, packed or unpacked, is such a block, on several threads. Live memory
is the same at ten times the rows, resident memory was not. A threshold that is set stays where it
is.

Analysis has matrices of all sizes and wants them given back. Capture has the same few blocks for
every chunk, Blosc's own of 4 MiB among them, and taking their pages from the system again and
again costs half of what compressing does: 1.9 ns of a core a byte against 1.3.
"""

import ctypes
import platform
from typing import Final

M_MMAP_THRESHOLD: Final = -3  # of <malloc.h>
M_TRIM_THRESHOLD: Final = -1

OWN_MAPPING_BYTES: Final = 4 << 20
"""Blocks this large are mapped, and given back when they are freed. Costs page faults: a twentieth
of the processor time of a profile."""


KEPT_BYTES: Final = 16 << 20
"""Freed memory that each heap keeps for the next matrices: taking it from the system again and
again takes time: a profile of 64 sites took 18.5 s without, 15.3 s with 16 MiB."""


LARGEST_BLOCK_BYTES: Final = 32 << 20
"""The largest threshold that glibc takes."""

KEPT_WHILE_ENCODING: Final = 64 << 20
"""Freed memory that each encoder's heap keeps at most; it has 10 MiB in use."""


def give_blocks_back() -> bool:
    """Have blocks of `OWN_MAPPING_BYTES` given back when they are freed, in this process; False
    where the C library is another than glibc.
    """
    return _fix_thresholds(OWN_MAPPING_BYTES, KEPT_BYTES)


def keep_blocks() -> bool:
    """Have the blocks of encoders kept for the next chunk, in this process; False as above."""
    return _fix_thresholds(LARGEST_BLOCK_BYTES, KEPT_WHILE_ENCODING)


def _fix_thresholds(own_mapping: int, kept: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, own_mapping) and mallopt(M_TRIM_THRESHOLD, kept))
