"""Text and tables as GitHub and GitLab render them."""

import re
from collections.abc import Iterable

from lpp.store.commands.escaping import escape


def row(cells: Iterable[str]) -> str:
    """A line of a table.

    >>> row(["a", "b"])
    '| a | b |'
    """
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    r"""Text that means itself in Markdown, on one line.

    >>> escaped("<img src=x> | *a*")
    '&lt;img src=x&gt; \\| \\*a\\*'
    """
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]|#@~])", r"\\\1", text.replace(">", "&gt;"))


def code(text: str) -> str:
    r"""Text in a code span that it cannot leave, in a table or out of it.

    >>> code("a`b|c")
    '`` a`b\\|c ``'
    """
    text = _one_line(text).replace("|", "\\|")
    fence = _fence(text, 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(command: str) -> str:
    """A command as a block that it cannot leave."""
    fence = _fence(command, 3)
    return f"{fence}bash\n{command}\n{fence}"


def _fence(text: str, least: int) -> str:
    """More backticks than stand together in `text`."""
    return "`" * max(least, max((len(run) for run in re.findall("`+", text)), default=0) + 1)


def _one_line(text: str) -> str:
    """`text` with single spaces; controls and direction marks written out, as on a terminal."""
    return escape(re.sub(r"[ \t\r\n\f\v]+", " ", text), keep="")
