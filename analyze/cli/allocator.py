"""What `lpp-analyze` asks of the C library's allocator, so that memory does not grow with the rows.

glibc raises its own thresholds as large blocks are freed (`man 3 mallopt`, M_MMAP_THRESHOLD): from
then on blocks of megabytes come from heaps that cannot shrink while anything lies above them. Every
block of rows and every unpacked chunk is such a block, on several threads. Live memory is the same
at ten times the rows, resident memory was not. A threshold that is set stays where it is.
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


def give_blocks_back() -> bool:
    """Fix the threshold in this process; False where the C library is another than glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    )
