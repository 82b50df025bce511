"""The process that renders chat templates: a question a line on its input, an answer a line back.

    python -m lpp.capture.corpus.render_templates SECONDS BYTES CHARACTERS

Each template gets so much time of a processor (more ends the process), so much memory, and a text
of so many characters. Imports no torch.
"""

import contextlib
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
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
    main()
