"""`make test-changed`: runs the files of tests that a change can reach.

    python tests/support/changed.py [BASE] [OPTIONS OF PYTEST...]

What changed is the working tree against BASE. The default is where the branch left `main`, and on
`main` itself, the commit before the last. A test reaches the modules that its file imports, inside
functions too, those that they import, and so on; also by the full name in a string, through a stub,
as the program that it starts, and as its conftests. Of the commands of a program those count whose
word it says. A file that is no module counts for the modules that name it; one that nothing names,
as `pyproject.toml`, makes every test run.
"""

import ast
import gc
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from imports import PACKAGES, ROOT, imported_names, module_name, within

FOLDERS: Final = (*PACKAGES, "tests", "benchmarks", "docs", "namespace")
"""Folders whose modules are in the graph."""

EVERY_TEST: Final = ("pyproject.toml", "Makefile")
"""Files that every test depends on, whatever names them."""

NO_TESTS: Final = 5
"""Exit code of pytest if it has no test to run."""

_GROUP: Final = re.compile(r"lpp\.\w+\.cli\.command")
_MODULE: Final = re.compile(r"lpp(\.\w+)+")


class Graph:
    """The modules of a project, `root`, and which of them each imports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = sorted(path for top in FOLDERS for path in (root / top).rglob("*.py"))
        self.paths = {module_name(path, root): path for path in files}
        self.texts = {name: path.read_text("utf-8") for name, path in self.paths.items()}
        scripts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
        self.programs = {name: target.partition(":")[0] for name, target in scripts.items()}
        self.imported = cache(self._imported)
        self.passed_on = cache(self._passed_on)

    def _passed_on(self, name: str) -> dict[str, str]:
        """Names that load on first use, by the stub beside a module."""
        stub = self.paths[name].with_suffix(".pyi")
        tree = ast.parse(stub.read_text("utf-8") if stub.exists() else "")
        of_stub = (imported_names(node) for node in tree.body if isinstance(node, ast.ImportFrom))
        return {word: f"{name}.{target}" for names in of_stub for word, target in names.items()}

    def resolve(self, target: str) -> Iterator[str]:
        """The modules that a full name means."""
        name = within(target, self.paths)
        if name in self.paths:
            yield name
            first = target[len(name) + 1 :].partition(".")[0]
            if passed := self.passed_on(name).get(first):
                yield from self.resolve(passed)

    def _imported(self, name: str) -> frozenset[str]:
        return self.used(name, ast.parse(self.texts[name]).body)

    def used(self, name: str, nodes: Iterable[ast.AST]) -> frozenset[str]:
        """The modules that some nodes of a module lead to."""
        targets: set[str] = set()
        for node in (part for top in nodes for part in ast.walk(top)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                targets.update(imported_names(node).values())
            elif isinstance(node, ast.Attribute):
                targets.add(dotted(node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if _MODULE.fullmatch(node.value.rstrip(".")):
                    targets.add(node.value)
                    if node.value.endswith("."):  # the rest is computed
                        targets.update(n for n in self.paths if n.startswith(node.value))
                elif not name.startswith("lpp.") and node.value in self.programs:
                    targets.add(self.programs[node.value])
        return frozenset(found for target in targets for found in self.resolve(target))

    def of_conftest(self, name: str, words: set[str]) -> Iterator[str]:
        """What a conftest leads to for tests that say `words`: names of its functions, or not."""
        body = ast.parse(self.texts[name]).body
        here: list[ast.AST] = []
        while new := [n for n in body if n not in here and is_named(n, words)]:
            here += new
            functions = (n for n in new if isinstance(n, ast.FunctionDef))
            words = words.union(*(re.findall(r"\w+", ast.unparse(n)) for n in functions))
        yield name
        yield from self.used(name, here)

    def reached(self, test: str) -> set[str]:
        """Every module that a module of tests leads to, itself included."""
        own = self._reached({test}, lambda name: not name.startswith("lpp."))
        words = {word for name in own for word in re.findall(r"[\w-]+", self.texts[name])}
        for name in self.paths:
            above = name.removesuffix("conftest")
            if above != name and test.startswith(above):
                own |= {*self.of_conftest(name, words)}

        def counts(name: str) -> bool:
            _, _, command = name.rpartition(".cli.")
            said = (len(word) > 2 and command.startswith(word) for word in words)
            return command in ("", "command") or any(said)

        return self._reached(own, counts)

    def _reached(self, start: set[str], follows: Callable[[str], bool]) -> set[str]:
        reached: set[str] = set()
        todo = set(start)
        while todo:
            reached.add(name := todo.pop())
            if not name.endswith("conftest"):  # what it leads to is in `start`
                offers = _GROUP.fullmatch(name) or not name.startswith("lpp.")
                new = self.imported(name) - reached
                todo |= {other for other in new if not offers or follows(other)}
        return reached

    def tests(self) -> Iterator[str]:
        """The modules of tests."""
        return (name for name, path in self.paths.items() if path.name.startswith("test_"))

    def naming(self, file: PurePosixPath) -> set[str]:
        """Modules that name a file, or the folder in which it lies."""
        folder = f'"{file.parent.name}' if len(file.parts) > 1 else file.name
        return {n for n, text in self.texts.items() if file.name in text or folder in text}


def is_named(node: ast.stmt, words: set[str]) -> bool:
    """Whether a statement of a conftest runs for tests that say `words`."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return not isinstance(node, ast.If)  # imports for types alone
    always = any("autouse" in ast.unparse(part) for part in node.decorator_list)
    return always or node.name in words or node.name.startswith("pytest_")


def dotted(node: ast.AST) -> str:
    """`x.y.z`; empty for attributes of anything but a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *parts]) if isinstance(node, ast.Name) else ""


def git(root: Path, *words: str) -> str:
    """What git prints; nothing if it fails."""
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)
    return done.stdout


def default_base(root: Path) -> str:
    """Where the branch left `main`; on `main` itself, the commit before the last."""
    branch = git(root, "rev-parse", "--abbrev-ref", "HEAD").strip()
    left = git(root, "merge-base", "main", "HEAD").strip()
    return left if left and branch != "main" else "HEAD~1"


def changed_files(root: Path, base: str) -> list[str]:
    """Paths that differ between `base` and the working tree, new files included."""
    differ = git(root, "diff", "--name-only", "--no-renames", base).splitlines()
    return sorted({*differ, *git(root, "ls-files", "--others", "--exclude-standard").splitlines()})


def selected(graph: Graph, base: str, files: Sequence[str]) -> list[str]:
    """Files of tests that reach a changed file; `tests` if nothing can be told."""
    changed: set[str] = set()
    for file in files:
        path = graph.root / file
        if path.suffix == ".py" and file.split("/")[0] in FOLDERS:
            before = ast.dump(ast.parse(git(graph.root, "show", f"{base}:{file}")))
            name = module_name(path, graph.root)
            if ast.dump(ast.parse(graph.texts.get(name, ""))) != before:
                changed.add(name)
        elif file in EVERY_TEST or not (named := graph.naming(PurePosixPath(file))):
            return ["tests"]
        else:
            changed |= named
    found = [name for name in graph.tests() if graph.reached(name) & changed]
    return [graph.paths[name].relative_to(graph.root).as_posix() for name in found]


def main(arguments: Sequence[str]) -> int:
    """Run pytest on the selected tests; its exit code."""
    is_base = arguments and not arguments[0].startswith("-")
    base = arguments[0] if is_base else default_base(ROOT)
    gc.disable()  # the syntax trees of 900 modules hold no cycles
    files = changed_files(ROOT, base)
    tests = selected(Graph(ROOT), base, files) if files else []
    print(f"{len(files)} files differ from {base[:12]}; to run: {len(tests)} files of tests")
    if not tests:
        return 0
    command = [sys.executable, "-m", "pytest", *arguments[bool(is_base) :], *tests]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return 0 if code == NO_TESTS else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
