"""What the modules of this project import, read from their source."""

import ast
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("store", "capture", "analyze", "sql")
"""Folders that are imported as `lpp.store` and so on."""


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every name imported anywhere in `path`, inside functions and for types alone included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert getattr(node, "level", 0) == 0, f"{path}:{node.lineno}: import by full name"
            yield from ((target, node.lineno) for target in imported_names(node).values())
        elif (name := imported_by_string(node)) is not None:
            yield name, node.lineno  # type: ignore[attr-defined]


def imported_names(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """The names that a statement binds, or the modules that it loads, each with its full name.

    >>> imported_names(ast.parse("from lpp.store import Run as R").body[0])
    {'R': 'lpp.store.Run'}
    """
    start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return {alias.asname or alias.name: start + alias.name for alias in node.names}


def imported_by_string(node: ast.AST) -> str | None:
    """`x` where `node` is `import_module("x")`."""
    if not isinstance(node, ast.Call) or not node.args:
        return None
    function, argument = node.func, node.args[0]
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
        return str(argument.value)
    return None


def module_name(path: Path, root: Path = ROOT) -> str:
    """`lpp.store.format.keys` of a file; a folder's own name for its `__init__`.

    Modules of tests/support are imported by their own name alone.
    """
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts[2:] if parts[:2] == ("tests", "support") else parts
    parts = ("lpp", *parts) if parts[0] in PACKAGES else parts
    return ".".join(part for part in parts if part != "__init__")


def within(target: str, known: Collection[str]) -> str:
    """The module of `known` that an imported name belongs to; the name itself where none is."""
    parts = target.split(".")
    heads = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((head for head in heads if head in known), target)
