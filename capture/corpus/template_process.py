"""Chat templates are rendered in another process, which has limits of time and memory.

A template is a program of whoever made the model. Jinja's sandbox keeps it from files and from
Python; it does not keep it from loops without end or from texts of any length.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from lpp.store.errors import ErrorKind, InputError, MachineError

SECONDS: Final = 10
"""Most seconds of a processor to render one conversation once."""

MEMORY_BYTES: Final = 1 << 30
"""Most memory to render it."""

CHARACTERS: Final = 1 << 25
"""Most characters of its text: twice as many as a row of a corpus has bytes."""


class TemplateRaisedError(Exception):
    """What a template raised; `kind` is the name of its class."""

    def __init__(self, kind: str, says: str) -> None:
        super().__init__(says)
        self.kind = kind


@contextmanager
def rendered_elsewhere() -> Iterator[None]:
    """Until the block ends, `apply_chat_template` of transformers renders in the other process.

    Rendering raises TemplateRaisedError, and InputError beyond a limit.
    """
    base: Any = importlib.import_module("transformers.tokenization_utils_base")
    here = base.render_jinja_template
    base.render_jinja_template = _PROCESS.render
    try:
        yield
    finally:
        base.render_jinja_template = here


class _Process:
    """The other process: started for the first template, and again after one beyond a limit."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._parent = 0
        self._lock = threading.Lock()

    def render(self, **question: Any) -> tuple[list[str], list[Any]]:
        """`render_jinja_template` of transformers, with its arguments."""
        line = json.dumps(question, default=str).encode() + b"\n"
        with self._lock:
            running = self._started()
            assert running.stdin is not None
            assert running.stdout is not None
            with suppress(BrokenPipeError):  # it has ended: no answer says so
                running.stdin.write(line)
                running.stdin.flush()
            answer = running.stdout.readline()
            if not answer:
                self.stop()
        if not answer:
            if running.returncode == -signal.SIGPROF:
                raise _beyond(f"{SECONDS} s of a processor")
            raise MachineError(
                "the process that renders chat templates ended: exit code "
                f"{running.returncode}. Repeat the command; if memory is short, free some.",
                kind=ErrorKind.ENGINE_DIED,
            )
        said = json.loads(answer)
        if "too_much" in said:
            raise _beyond(f"{MEMORY_BYTES >> 30} GiB, or writes over {CHARACTERS:,} characters")
        if "raised" in said:
            raise TemplateRaisedError(said["raised"], said["says"])
        return said["texts"], said["spans"]

    def stop(self) -> None:
        """End the process, if one runs."""
        running, self._running = self._running, None
        if running is not None and self._parent == os.getpid():
            running.kill()
            running.communicate()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._running is None or self._parent != os.getpid():  # another's, after a fork
            limits = (SECONDS, MEMORY_BYTES, CHARACTERS)
            self._parent = os.getpid()
            self._running = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "lpp.capture.corpus.render_templates"),
                    *map(str, limits),
                ],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._running


_PROCESS: Final = _Process()
atexit.register(_PROCESS.stop)


def _beyond(limit: str) -> InputError:
    return InputError(
        f"the chat template takes over {limit} for one conversation, and its author decides what "
        "it does. Give another with --chat-template FILE.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )
