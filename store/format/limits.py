"""What a document, a name and an object may be at most, SPEC.md sections 3, 5 and 6.

A store may come from a stranger: everything that it declares is compared with these bounds before
it is believed. Imports nothing.
"""

from typing import Final

MAX_KEY_BYTES: Final = 1024
"""Bytes of a key with all its parts."""

MAX_PART_BYTES: Final = 255
"""Bytes of one part of a key: what common file systems hold."""

MAX_DOCUMENT_BYTES: Final = 64 << 20
"""Bytes of a document. A plan of a million shards takes 10 MB."""

MAX_ROOT_BYTES: Final = 64 << 10
"""Bytes of `lpp.json`, and of other documents of a few words."""

ADVICE: Final = "`lpp-analyze verify <store>` lists every such object."


def key_problem(key: str) -> str | None:
    r"""Why `key` may not name an object below a directory; None when it may.

    >>> key_problem("hidden.zarr/block.1/c/0/0")
    >>> [key_problem(key) for key in ("../x", "/etc/passwd", "a//b", "a\\b")]
    ["has a part '..'", "has a part ''", "has a part ''", 'has a character that no name may have']
    """
    if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes"
    if "\\" in key or not key.isprintable():
        return "has a character that no name may have"
    for part in key.split("/"):
        if not part or part.startswith("."):
            return f"has a part {part!r}"
        if len(part.encode(errors="replace")) > MAX_PART_BYTES:
            return f"has a part of more than {MAX_PART_BYTES} bytes"
    return None
