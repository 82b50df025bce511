"""The threads that decode chunks, shared by every reader of a process.

Reading, hashing and unpacking a chunk run outside Python's lock, so chunks decode side by side.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_pool() -> ThreadPoolExecutor | None:
    """A thread for each core but the caller's, which decodes as well; None on one core."""
    global _pool  # noqa: PLW0603 - one for each process, made when it is first wanted
    with _lock:
        if _pool is None and (others := usable_cores() - 1):
            _pool = ThreadPoolExecutor(others, thread_name_prefix="lpp-decode")
        return _pool


def _forget() -> None:
    """A forked process has none of its parent's threads, and perhaps a lock that none releases."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
