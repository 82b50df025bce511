"""Local copies of objects of a bucket, for libraries that read files.

Tokens, prompts, scores and the database are copied, activations are not. A process fetches an
object once, and its copy is removed when the process ends. TMPDIR needs space for the copies: a few
per cent of the store.

Temporary folders are removed even if their process was killed: a folder's name identifies the
process that made it (`lpp.store.objects.owners`), and the next process that makes a folder removes
those of ended processes.
"""

import atexit
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from lpp.store.objects.disk import DiskObjects
from lpp.store.objects.place import BucketPath

_here: dict[BucketPath, object] = {}
"""Version of the object that each copy was made of."""
_lock = threading.Lock()


def copied(path: BucketPath, version: object, fetch: Callable[[], memoryview | bytes]) -> Path:
    """The path of a copy of the object. Calls `fetch` if this process has no copy of `version`.

    A new copy replaces an old one by a rename, so a thread that reads the old one is not disturbed.
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
    """The path of an object's copy, which may not exist yet."""
    return _folder() / path.root.replace("://", "-") / path.key


@cache
def _folder() -> Path:
    stack = ExitStack()
    folder = stack.enter_context(temporary_folder())
    atexit.register(stack.close)
    return folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that only this user may read, removed when the block ends."""
    parent = DiskObjects(Path(tempfile.gettempdir()))
    parent.sweep()
    with parent.scratch() as folder:
        yield folder
