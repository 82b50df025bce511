"""Run a command on a terminal, and return what the terminal received."""

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

HOSTILE = "m\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt.exe\u2066\x7f"
"""A name with CSI, OSC, C1, DEL and direction controls."""

SHOWN = r"m\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt.exe\u2066\x7f"
"""`HOSTILE` as a terminal may receive it."""

STEERING = frozenset(
    "".join(map(chr, (*range(9), *range(11, 32), *range(127, 160))))
    + "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
"""What no name may send to a terminal or a report, written independently of escaping.py."""


def on_terminal(
    words: Sequence[str | Path],
    environment: Mapping[str, str] = {},
    *,
    stdout: int | None = None,
) -> tuple[int, bytes]:
    """Exit code of `words`, and the bytes that its terminal received.

    stdout: standard output, instead of the terminal. Line ends are those of a terminal.
    """
    ours, theirs = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("LPP_DEBUG", "NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env=kept | {"TERM": "xterm-256color", "COLUMNS": "100"} | dict(environment),
    )
    os.close(theirs)
    received = b""
    try:
        while piece := os.read(ours, 4096):
            received += piece
    except OSError:  # Linux's error for a terminal whose other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(60), received


def steering(text: str) -> set[str]:
    """Characters of `text` that would control a terminal, except its line ends."""
    return set(text.replace("\r\n", "\n")) & STEERING
