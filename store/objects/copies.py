"""Objects of a bucket as files of this machine, for libraries that read files.

Tokens, prompts, scores and the database come here, activations do not. An object is fetched once
in a process, and its copy is gone when the process ends: a folder under TMPDIR needs room for the
token files that are used, a few hundredths of a store.
"""

import atexit
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from lpp.store.objects.bucket_path import BucketPath
from lpp.store.objects.temporary import temporary_folder

_here: dict[BucketPath, object] = {}
"""What version of an object its copy is of."""
_lock = threading.Lock()


def copied(path: BucketPath, version: object, fetch: Callable[[], memoryview | bytes]) -> Path:
    """The copy of an object, which `fetch` gives where this process has no copy of `version`.

    A copy that another thread is reading keeps its bytes: a new one takes its name, not its place.
    """
    target = copied_path(path)
    with _lock:
        if _here.get(path) == version:
            return target
    data = fetch()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(data)
    with _lock:
        Path(file.name).replace(target)
        _here[path] = version
    return target


def copied_path(path: BucketPath) -> Path:
    """Where the copy of an object lies, whether or not it does yet: the same path below."""
    return _folder() / path.root.replace("://", "-") / path.key


@cache
def _folder() -> Path:
    stack = ExitStack()
    folder = stack.enter_context(temporary_folder())
    atexit.register(stack.close)
    return folder
