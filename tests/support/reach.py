"""Which definitions a test can reach, read from the source: the graph behind `make test-changed`.

A node is a top-level definition of a module, such as `("lpp.store.runs.read", "Run")`, or, without
a name, `("lpp.store.runs.read", "")`: what runs when the module is imported. An arrow leads to each
definition that the source of another names: by import (inside functions too), by the full name in a
string, as the argument of a test that is a fixture, or as the program that a test starts. Two kinds
of arrow count only for tests that say the name: to a command from the program that offers it, and
to the definitions of a module that is imported by its name.

What the graph does not see: objects found by `getattr` of a computed name, and annotations of
functions. Data files are no nodes: `Graph.naming` gives the definitions that name one.
"""

import ast
import fnmatch
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from imports import PACKAGES, imported_by_string, imported_names, module_name, within

Node = tuple[str, str]
"""A module's full name and the name of one of its definitions."""

ON_IMPORT: Final = ""
"""Name of the node of what runs when a module is imported."""

WHOLE: Final = "*"
"""Name of the node of a module that is used as an object: it reaches every definition."""

FOLDERS: Final = (*PACKAGES, "tests", "benchmarks", "docs", "namespace")
"""Folders whose modules are in the graph."""

_GROUP: Final = re.compile(r"lpp\.\w+\.cli\.command")
_MODULE: Final = re.compile(r"lpp(\.\w+)+")
"""The name of a module or of what is in one. That of a package alone may be a logger's, too."""


@dataclass
class Definition:
    """What the source of one definition says."""

    statements: list[ast.stmt] = field(default_factory=list)
    targets: set[str] = field(default_factory=set)
    """Full names of what it uses."""
    strings: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    arguments: set[str] = field(default_factory=set)
    """Names of the arguments of its functions, each perhaps a fixture."""
    command: str | None = None
    """The word that calls it, if it is a click command."""

    @property
    def signature(self) -> tuple[object, ...]:
        """Differs where a change of the source may change what the definition does."""
        return [ast.dump(part) for part in self.statements], sorted(self.targets)


class Module:
    """The definitions of one module."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.bindings: dict[str, str] = {}
        """Imported names, each with its full name."""
        self.imported: set[str] = set()
        """Full names of what is imported when the module is."""
        self.definitions: dict[str, Definition] = {ON_IMPORT: Definition()}
        self.registered: list[tuple[str, str]] = []
        """A definition that keeps another, by decorating it, and that other."""
        self._sort(ast.parse(text).body)
        for definition in self.definitions.values():
            reader = _Reader(self, definition)
            for statement in definition.statements:
                reader.visit(statement)
        for first, definition in self.definitions.items():
            for statement in definition.statements:
                self._register(first, definition, statement)

    def _sort(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names = imported_names(statement)
                self.bindings |= bound(names)
                self.imported.update(names.values())
            elif new_names := defined(statement):
                for name in new_names:
                    self.definitions.setdefault(name, Definition()).statements.append(statement)
            elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
                for typed in statement.body:
                    if isinstance(typed, ast.Import | ast.ImportFrom):
                        self.bindings |= bound(imported_names(typed))
            elif not (is_docstring(statement) or is_program(statement)):
                for part in ast.walk(statement):
                    if isinstance(part, ast.Import | ast.ImportFrom):
                        self.bindings |= bound(imported_names(part))
                    for name in defined(part):
                        self.definitions.setdefault(name, Definition()).statements.append(statement)
                keeper = keeper_of_commands(statement)
                self.definitions.setdefault(keeper, Definition()).statements.append(statement)

    def _register(self, name: str, definition: Definition, statement: ast.stmt) -> None:
        """A decorator of this project may keep what it decorates: a group keeps its commands."""
        for decorator in getattr(statement, "decorator_list", ()):
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(function, ast.Attribute) and function.attr in ("command", "group"):
                given = [part.value for part in getattr(decorator, "args", ())]
                definition.command = given[0] if given else name.replace("_", "-")
            root = function
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in self.definitions:
                self.registered.append((root.id, name))
            elif isinstance(root, ast.Name) and self.bindings.get(root.id, "").startswith("lpp."):
                self.registered.append((ON_IMPORT, name))
        if definition.command:  # its group keeps it, and no other decorator
            self.registered = [pair for pair in self.registered if pair != (ON_IMPORT, name)]

    def names(self) -> set[str]:
        """The full names of what the module offers, that of its import included."""
        return {f"{self.name}.{name}" for name in {*self.definitions, *self.bindings}}

    def full_name(self, name: str) -> str | None:
        """The full name of a top-level name."""
        return f"{self.name}.{name}" if name in self.definitions else self.bindings.get(name)


def bound(names: Mapping[str, str]) -> dict[str, str]:
    """Names as they are bound: `import a.b` binds `a`."""
    return {
        name.partition(".")[0]: name.partition(".")[0] if "." in name else target
        for name, target in names.items()
    }


def defined(statement: ast.AST) -> list[str]:
    """The names that a definition or an assignment binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return []
    parts = [part for target in targets for part in ast.walk(target)]
    return [p.id for p in parts if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)]


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_program(statement: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`, which no import runs."""
    return isinstance(statement, ast.If) and "'__main__'" in ast.dump(statement.test)


def keeper_of_commands(statement: ast.stmt) -> str:
    """`main` where commands are added by `main.add_command(...)`; else the node of the import."""
    for part in ast.walk(statement):
        root, parts = chain(part)
        if parts == ["add_command"] and isinstance(root, ast.Name):
            return root.id
    return ON_IMPORT


class _Reader(ast.NodeVisitor):
    """Collects what the source of a definition names."""

    def __init__(self, module: Module, definition: Definition) -> None:
        self.module, self.definition = module, definition
        self.local: dict[str, str] = {}

    def _use(self, name: str, *parts: str) -> None:
        if target := self.local.get(name) or self.module.full_name(name):
            self.definition.targets.add(".".join((target, *parts)))

    def visit_Expr(self, node: ast.Expr) -> None:
        if not is_docstring(node):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        names = imported_names(node)
        self.local |= bound(names)
        self.definition.targets.update(f"{name}.{ON_IMPORT}" for name in names.values())

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_arg(self, node: ast.arg) -> None:
        self.definition.arguments.add(node.arg)

    def visit_Name(self, node: ast.Name) -> None:
        self._use(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        root, parts = chain(node)
        self.definition.attributes.update(parts)
        if isinstance(root, ast.Name):
            self._use(root.id, *parts)
        elif loaded := imported_by_string(root):
            self.definition.targets.add(".".join((loaded, *parts)))
        else:
            self.visit(root)

    def visit_Call(self, node: ast.Call) -> None:
        """`setattr(module, "name", ...)` uses one name of the module, not all."""
        _, parts = chain(node.func)
        name = parts[-1] if parts else getattr(node.func, "id", "")
        match node.args:
            case [subject, ast.Constant(value=str(attribute)), *_] if name.endswith("attr"):
                root, parts = chain(subject)
                if isinstance(root, ast.Name):
                    self._use(root.id, *parts, attribute)
                    for part in (node.func, *node.args[2:]):
                        self.visit(part)
                    return
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg == "autouse":
            self.definition.attributes.add(node.arg)
        self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.definition.strings.add(node.value)


def chain(node: ast.AST) -> tuple[ast.AST, list[str]]:
    """`x` and `["y", "z"]` of `x.y.z`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return node, parts


@dataclass(frozen=True)
class Arrows:
    """Where a node leads."""

    nodes: frozenset[Node] = frozenset()
    if_named: frozenset[tuple[str, Node]] = frozenset()
    """Nodes that count only where a word is said."""
    commands: frozenset[tuple[str, Node]] = frozenset()
    """The same, of the commands of one group: all count where none is said."""
    words: frozenset[str] = frozenset()
    """The words that the node says."""


ANY_COMMAND: Final = "$ commands"
"""The word of a test that walks the commands of a group."""


class Graph:
    """The definitions of a project, `root`, and the arrows between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: dict[str, Path] = {}
        self.modules: dict[str, Module] = {}
        for path in sorted(path for top in FOLDERS for path in (root / top).rglob("*.py")):
            name = module_name(path, root)
            self.paths[name] = path
            self.modules[name] = Module(name, path.read_text("utf-8"))
            if (stub := path.with_suffix(".pyi")).exists():  # names that load on first use
                for node in ast.parse(stub.read_text("utf-8")).body:
                    assert isinstance(node, ast.ImportFrom)
                    names = bound(imported_names(node))
                    passed = {word: f"{name}.{target}" for word, target in names.items()}
                    self.modules[name].bindings |= passed
        scripts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
        self.programs = {name: target.replace(":", ".") for name, target in scripts.items()}
        self.conftests = [name for name, path in self.paths.items() if path.name == "conftest.py"]
        self.arrows = cache(self._arrows)

    def resolve(self, target: str) -> Iterator[Node]:
        """The definition that a full name means, through the names that modules pass on."""
        name = within(target, self.modules)
        module = self.modules.get(name)
        if module is None:
            return
        if name == target:
            yield name, WHOLE
            return
        first, _, rest = target[len(name) + 1 :].partition(".")
        if first in module.bindings and first not in module.definitions:
            passed = module.bindings[first]
            if passed != target:
                yield from self.resolve(f"{passed}.{rest}".rstrip("."))
        else:
            yield name, first
        if "__getattr__" in module.definitions:
            yield name, "__getattr__"

    def _arrows(self, node: Node) -> Arrows:
        name, first = node
        module = self.modules[name]
        if first == WHOLE:
            return Arrows(frozenset((name, other) for other in module.definitions))
        definition = module.definitions.get(first)
        if definition is None:
            return Arrows()
        nodes = {(name, ON_IMPORT)}
        if_named: set[tuple[str, Node]] = set()
        for target in definition.targets:
            nodes.update(self.resolve(target))
        for string in definition.strings - {name}:
            nodes.update(self._named(string, if_named))
        if not name.startswith("lpp."):
            for program in definition.strings & self.programs.keys():
                nodes.update(self.resolve(self.programs[program]))
            by_string = {"getfixturevalue", "usefixtures"} & definition.attributes
            for argument in definition.arguments | (definition.strings if by_string else set()):
                nodes.update(self._fixtures(argument, name))
        if first == ON_IMPORT:
            nodes.update((within(target, self.modules), ON_IMPORT) for target in module.imported)
        nodes.update((name, kept) for keeper, kept in module.registered if keeper == first)
        nodes = {(other, what) for other, what in nodes if other in self.modules} - {node}
        commands: frozenset[tuple[str, Node]] = frozenset()
        if definition.command:
            commands = frozenset((word, to) for to in nodes if (word := self._command(to)))
            nodes -= {to for _, to in commands}
        words = self._words(module, definition)
        return Arrows(frozenset(nodes), frozenset(if_named), commands, words)

    def _named(self, string: str, if_named: set[tuple[str, Node]]) -> Iterator[Node]:
        if _MODULE.fullmatch(string):
            for name, first in self.resolve(string):
                if first == WHOLE:
                    for other in self.modules[name].names():
                        word = other.rpartition(".")[2]
                        if_named |= {(word, to) for to in self.resolve(other)}
                else:
                    yield name, first

    def _fixtures(self, argument: str, name: str) -> Iterator[Node]:
        for scope in self.scopes(name):
            if target := self.modules[scope].full_name(argument):
                yield from self.resolve(target)

    def scopes(self, name: str) -> tuple[str, ...]:
        """The modules whose fixtures a module of tests sees: itself and its conftests.

        Modules of tests/support serve tests of any folder.
        """
        known = self.conftests
        if name.startswith("tests."):
            known = [other for other in known if name.startswith(other.removesuffix("conftest"))]
        return (name, *known)

    def _command(self, node: Node) -> str | None:
        definition = self.modules[node[0]].definitions.get(node[1])
        return definition.command if definition else None

    def _words(self, module: Module, definition: Definition) -> frozenset[str]:
        """What may be asked for by name; of callers of commands, each word that they say."""
        words = {*definition.strings, *definition.attributes}
        starts = {text for other in module.definitions.values() for text in other.strings}
        if not module.name.startswith("lpp.") or any(_GROUP.fullmatch(text) for text in starts):
            said = {word for text in definition.strings for word in re.findall(r"[\w-]+", text)}
            words |= {f"$ {word}" for word in said}
            words |= {ANY_COMMAND} & {f"$ {name}" for name in definition.attributes}
        return frozenset(words)

    def reached(self, start: Iterable[Node], goal: Set[Node] = frozenset()) -> set[Node]:
        """Every node that `start` leads to, until one of `goal` is among them."""
        reached: set[Node] = set()
        words: set[str] = set()
        waiting: set[tuple[str, Node]] = set()
        groups: set[frozenset[tuple[str, Node]]] = set()
        todo = set(start)
        while todo and not reached & goal:
            while todo:
                reached.add(node := todo.pop())
                arrows = self.arrows(node)
                todo |= arrows.nodes - reached
                waiting |= arrows.if_named
                words |= arrows.words
                groups.add(arrows.commands)
            todo = {node for word, node in waiting if word in words}
            for commands in groups:
                said = {node for word, node in commands if f"$ {word}" in words}
                every = ANY_COMMAND in words or not said
                todo |= {node for _, node in commands} if every else said
            todo -= reached
        return reached

    def tests(self) -> Iterator[Node]:
        """The test functions and classes of every `test_*.py`."""
        for name, path in self.paths.items():
            if path.name.startswith("test_"):
                for first in self.modules[name].definitions:
                    if first.startswith(("test_", "Test")):
                        yield name, first

    def start(self, test: Node) -> set[Node]:
        """What runs for a test whether it names it or not."""
        names = {test, (test[0], "pytestmark")}
        for scope in self.scopes(test[0]):
            names.add((scope, ON_IMPORT))
            for name, definition in self.modules[scope].definitions.items():
                if name.startswith("pytest_") or "autouse" in definition.attributes:
                    names.add((scope, name))
        return names

    def changed(self, name: str, before: str) -> set[Node]:
        """Definitions of a module that differ from those of its text `before`."""
        old, new = Module(name, before).definitions, self.modules[name].definitions
        return {
            (name, first)
            for first in old.keys() | new.keys()
            if first not in old or first not in new or old[first].signature != new[first].signature
        }

    def naming(self, path: str) -> set[Node]:
        """Definitions that name a file, its folder, or a pattern that it matches.

        What is imported is seldom named: of a module of ours or of tests, its folder says nothing.
        """
        file = PurePosixPath(path)
        top = {file.parts[0]} - {*PACKAGES, "tests"}
        names = {file.name}
        if top or file.suffix != ".py":
            names |= {file.stem, *file.parts[1:-1], *top}

        def is_named(text: str) -> bool:
            last = text.rpartition("/")[2]
            parts = {*text.split("/")}
            is_pattern = "*" in last and last.endswith(file.suffix or file.name)
            return bool(parts & names) or (is_pattern and fnmatch.fnmatch(file.name, last))

        return {
            (name, first)
            for name, module in self.modules.items()
            if file.suffix != ".py" or not name.startswith("lpp.")  # these read files of users
            for first, definition in module.definitions.items()
            if any(map(is_named, definition.strings))
        }


def reaching(graph: Graph, changed: Set[Node]) -> list[Node]:
    """The tests that reach a changed definition."""
    return [test for test in graph.tests() if graph.reached(graph.start(test), changed) & changed]
