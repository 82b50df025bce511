r"""Output to a terminal: text is shown, and never controls the terminal.

Names of models, runs and files, values of tables and messages of libraries come from strangers.
Everything a command writes passes through `safe_streams`, so no caller has to remember:

    to                     C0, C1, DEL, bidi, surrogates   characters the encoding lacks
    terminal               escaped, but \n and \t           ASCII stand-ins (+-|), else escaped
    pipe, file             exact                           none: always UTF-8

What `escape` shows in place of a character:

    U+0000-001F, 007F-009F   controls: CSI and OSC begin with them     \x1b, \x9b
    U+061C, 200E, 200F       direction marks                           \u200f
    U+202A-202E, 2066-206F   direction embeddings, overrides, isolates \u202e
    U+2028, 2029             line and paragraph separators             \u2028
    U+D800-DFFF              lone surrogates: bytes that are not UTF-8 \udcff

A backslash stays as it is: the result is for reading, and cannot be taken back.
Imports nothing heavy.
"""

import codecs
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, Final

_STEERING: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)

_STAND_INS: Final = str.maketrans(
    {chr(code): "+" for code in range(0x2500, 0x2580)}  # corners and crossings of boxes
    | dict.fromkeys("─━┄┅┈┉╌╍═", "-")
    | dict.fromkeys("│┃┆┇┊┋╎╏║", "|")
    | {chr(code): "#" for code in range(0x2580, 0x25A0)}  # bars
    | {"±": "+-", "–": "-", "—": "-", "…": "...", "·": ".", "→": "->", "×": "x"}
)

_ERRORS: Final = "lpp.shown"
"""Name of the codec error handler that writes `_shown` of what an encoding lacks."""


def escape(text: str, keep: str = "\n\t") -> str:
    r"""`text` with every character that could control a terminal as its code; those in `keep` stay.

    >>> escape("a\x1b[31m\u202eb\n"), escape("a\nb", keep="")
    ('a\\x1b[31m\\u202eb\n', 'a\\x0ab')
    """
    return _STEERING.sub(lambda match: match[0] if match[0] in keep else _shown(match[0]), text)


def _shown(character: str) -> str:
    """The code of `character` as Python writes it."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shown_error(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: an ASCII stand-in, or the code, of what the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_STAND_INS)
    return "".join(c if c.isascii() else _shown(c) for c in text), error.end


codecs.register_error(_ERRORS, _shown_error)


class TerminalStream:
    """A text stream to a terminal that escapes what is written to it.

    It has no `buffer`: bytes would reach the terminal as they are, and click, which takes the
    buffer of a stream whose encoding is ASCII, writes to the stream instead.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.beneath = stream
        """The stream itself, for code that draws with control sequences and escapes its own
        texts."""

    def write(self, text: str) -> int:
        """Write `text`, escaped; returns its length."""
        self.beneath.write(escape(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.beneath, name)


def unescaped(stream: IO[str]) -> IO[str]:
    """The terminal's own stream beneath `stream`; a stream that does not escape is returned."""
    while isinstance(stream, TerminalStream):
        stream = stream.beneath
    return stream


@contextmanager
def safe_streams() -> Iterator[None]:
    """Until the block ends, standard output and error take any text, as this module's table says.

    A stream that the process was started without is the null device.
    """
    before = sys.stdout, sys.stderr
    with ExitStack() as streams:
        sys.stdout = streams.enter_context(_safe(sys.stdout))
        sys.stderr = streams.enter_context(_safe(sys.stderr))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


@contextmanager
def _safe(stream: Any) -> Iterator[Any]:
    if stream is None:  # closed by whoever started the process
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            yield nowhere
        return
    terminal = stream.isatty()
    if not isinstance(stream, io.TextIOWrapper):
        yield TerminalStream(stream) if terminal else stream
        return
    encoding, errors = stream.encoding, stream.errors
    stream.reconfigure(encoding=encoding if terminal else "utf-8", errors=_ERRORS)
    try:
        yield TerminalStream(stream) if terminal else stream
    finally:
        with suppress(OSError, ValueError):  # the device is full, or was closed
            stream.reconfigure(encoding=encoding, errors=errors)
