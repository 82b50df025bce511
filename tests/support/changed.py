"""`make test-changed`: runs the tests that a change can reach.

    python tests/support/changed.py [BASE] [OPTIONS OF PYTEST...]

What changed is the working tree against BASE. The default is where the branch left `main`, and on
`main` itself, the commit before the last. Of a Python file those definitions count that differ; any
other file counts for the definitions that name it, its folder or a pattern of its name. A file that
nothing names, as `pyproject.toml`, makes every test run.
"""

import gc
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from imports import ROOT, module_name
from reach import FOLDERS, Graph, Node, reaching

EVERY_TEST: Final = ("pyproject.toml", "Makefile")
"""Files that every test depends on, whatever names them."""

NO_TESTS: Final = 5
"""Exit code of pytest if it has no test to run."""


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


def changed_nodes(graph: Graph, base: str, files: Sequence[str]) -> set[Node] | None:
    """Definitions that differ or that name a file that does; None if nothing can be told."""
    changed: set[Node] = set()
    for file in files:
        path = graph.root / file
        is_module = path.suffix == ".py" and file.split("/")[0] in FOLDERS
        if is_module:
            before = git(graph.root, "show", f"{base}:{file}")
            changed |= graph.changed(module_name(path, graph.root), before)
        named = graph.naming(file)
        if file in EVERY_TEST or not (is_module or named):
            return None
        changed |= named
    return changed


def selected(graph: Graph, base: str, files: Sequence[str]) -> Iterator[str]:
    """What to give pytest: files whose tests all run, else tests by name; `tests` for all."""
    changed = changed_nodes(graph, base, files)
    if changed is None:
        yield "tests"
        return
    reached = set(reaching(graph, changed))
    for name in dict.fromkeys(name for name, _ in graph.tests()):
        of_file = {test for test in graph.tests() if test[0] == name}
        path = graph.paths[name].relative_to(graph.root).as_posix()
        if of_file <= reached:
            yield path
        else:
            yield from sorted(f"{path}::{test}" for _, test in of_file & reached)


def main(arguments: Sequence[str]) -> int:
    """Run pytest on the selected tests; its exit code."""
    is_base = arguments and not arguments[0].startswith("-")
    base = arguments[0] if is_base else default_base(ROOT)
    gc.disable()  # the syntax trees of 900 modules hold no cycles
    files = changed_files(ROOT, base)
    tests = list(selected(Graph(ROOT), base, files)) if files else []
    print(
        f"{len(files)} files differ from {base[:12]}; to run: {len(tests)} tests or files of tests"
    )
    if not tests:
        return 0
    command = [sys.executable, "-m", "pytest", *arguments[bool(is_base) :], *tests]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return 0 if code == NO_TESTS else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
