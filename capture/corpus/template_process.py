"""Chat templates are rendered in another process, which has limits of time and memory.

A template is a program of whoever made the model. Jinja's sandbox keeps it from files and from
Python; it does not keep it from loops without end or from texts of any length.

    python -m lpp.capture.corpus.template_process SECONDS BYTES CHARACTERS

is that process: a question a line on its input, an answer a line back. Each template gets so much
time of a processor (more ends the process), so much memory, and a text of so many characters.
"""

import atexit
import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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
                    *(sys.executable, "-P", "-m", "lpp.capture.corpus.template_process"),
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


def answer_questions() -> None:
    """Answer until the input ends."""
    seconds, memory, characters = (int(word) for word in sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends, and with it the input
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.modules["torch"] = None  # type: ignore[assignment]  # it is not there: saves its import
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit(memory)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = _answer(render_jinja_template, line, characters)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


def _limit(memory: int) -> None:
    """Allow `memory` more bytes than the process has now."""
    with contextlib.suppress(OSError, ValueError):  # no /proc, or a lower limit is set already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _answer(render: Any, line: bytes, characters: int) -> str:
    try:
        texts, spans = render(**json.loads(line))
        if sum(map(len, texts)) > characters:
            return json.dumps({"too_much": True})
        return json.dumps({"texts": texts, "spans": spans})
    except MemoryError:
        return json.dumps({"too_much": True})
    except Exception as error:  # a template may raise any error
        return json.dumps({"raised": type(error).__name__, "says": str(error)[:1000]})


if __name__ == "__main__":
    answer_questions()
