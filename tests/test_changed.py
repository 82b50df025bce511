"""`make test-changed`: a change selects the tests that reach it, and no others."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from changed import changed_files, default_base, selected
from imports import ROOT
from reach import Graph, reaching

FILES = {
    "pyproject.toml": '[project.scripts]\nlpp-analyze = "lpp.analyze.cli.command:main"\n',
    "Makefile": "test:\n",
    "README.md": "# Read\n",
    "store/numbers.py": "def twice(x):\n    return 2 * x\n\ndef half(x):\n    return x / 2\n",
    "store/registry.py": "KNOWN = []\n\ndef register(f):\n    KNOWN.append(f)\n    return f\n",
    "store/registered.py": "from lpp.store.registry import register\n\n"
    "@register\ndef added():\n    return 1\n",
    "store/text.sql": "SELECT 1",
    "store/reader.py": "from pathlib import Path\n\n"
    'def read():\n    return Path(__file__).with_name("text.sql").read_text()\n',
    "analyze/__init__.py": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n"
    "    from lpp.analyze.charts import draw as draw\n\n"
    "def __getattr__(name):\n    ...\n",
    "analyze/charts.py": "def draw(x):\n    from lpp.store.numbers import twice\n"
    "    return twice(x)\n\ndef bars():\n    return []\n",
    "analyze/page.py": "from importlib import import_module\n\n"
    'def drawn(name):\n    return getattr(import_module("lpp.analyze.charts"), name)()\n',
    "analyze/cli/command.py": "import click\nfrom lpp.analyze.cli.diff import diff\n"
    "from lpp.analyze.cli.show import shown\n\n@click.group()\ndef main():\n    pass\n\n"
    "for command in (diff, shown):\n    main.add_command(command)\n",
    "analyze/cli/diff.py": "import click\nfrom lpp.store.numbers import half\n\n"
    "@click.command()\ndef diff():\n    half(1)\n",
    "analyze/cli/show.py": 'import click\n\n@click.command("show")\ndef shown():\n    pass\n',
    "tests/conftest.py": "import pytest\n\n@pytest.fixture\ndef drawn():\n"
    "    from lpp.analyze import draw\n    return draw(1)\n",
    "tests/support/helper.py": 'def help_out():\n    return 1 if "*" else 0\n',
    "tests/test_all.py": "import lpp.store.registered\nfrom helper import help_out\n"
    "from lpp.analyze.cli.command import main\nfrom lpp.analyze.page import drawn as on_page\n"
    "from lpp.store.numbers import half\nfrom lpp.store.reader import read\n\n"
    "def test_half():\n    half(2)\n\n"
    "def test_fixture(drawn):\n    pass\n\n"
    'def test_page():\n    on_page("bars")\n\n'
    'def test_show(runner):\n    runner.invoke(main, ["show"])\n\n'
    'def test_diff(runner):\n    runner.invoke(main, ["diff", "a"])\n\n'
    'def test_program(run):\n    run("lpp-analyze", "diff")\n\n'
    "def test_read():\n    read()\n\n"
    "def test_helped():\n    help_out()\n",
    "tests/test_other.py": "def test_nothing():\n    assert True\n",
}
EVERY, OTHER = "tests/test_all.py", "tests/test_other.py"


def git(folder: Path, *words: str) -> None:
    names = {
        f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    subprocess.run(
        ["git", "-C", folder, *words], check=True, capture_output=True, env={**os.environ, **names}
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project in a git repository, on `main`, in one commit."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(tmp_path, "init", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "all")
    return tmp_path


Select = Callable[..., list[str]]


@pytest.fixture
def select(project: Path) -> Select:
    """`select(file, before, after)`: tests chosen once that text of a file is replaced."""

    def select(file: str, before: str, after: str) -> list[str]:
        path = project / file
        text = path.read_text() if path.exists() else ""
        assert before in text
        path.write_text(text.replace(before, after, 1) if before else text + after)
        chosen = list(selected(Graph(project), "HEAD", changed_files(project, "HEAD")))
        return [name.removeprefix(f"{EVERY}::") for name in chosen]

    return select


@pytest.mark.parametrize(
    ("file", "before", "after", "tests"),
    [
        ("store/numbers.py", "2 * x", "3 * x", ["test_fixture"]),
        ("store/numbers.py", "x / 2", "x / 3", ["test_diff", "test_half", "test_program"]),
        ("store/numbers.py", "def twice", "# a comment\ndef twice", []),
        ("store/registered.py", "return 1", "return 2", [EVERY]),
        ("store/text.sql", "1", "2", ["test_read"]),
        ("analyze/charts.py", "[]", "[1]", ["test_page"]),
        ("analyze/cli/show.py", "pass", "return", ["test_show"]),
        ("analyze/cli/diff.py", "half(1)", "half(2)", ["test_diff", "test_program"]),
        ("tests/conftest.py", "draw(1)", "draw(2)", ["test_fixture"]),
        ("tests/conftest.py", "", "\ndef pytest_configure():\n    pass\n", [EVERY, OTHER]),
        ("tests/support/helper.py", "1 if", "2 if", ["test_helped"]),
        ("tests/test_all.py", "half(2)", "half(4)", ["test_half"]),
        ("tests/test_new.py", "", "def test_new():\n    pass\n", ["tests/test_new.py"]),
        ("README.md", "Read", "Write", ["tests"]),
        ("pyproject.toml", "", "\n", ["tests"]),
    ],
)  # fmt: skip
def test_a_change_selects_the_tests_that_reach_it(
    select: Select, file: str, before: str, after: str, tests: list[str]
) -> None:
    assert select(file, before, after) == tests


def test_an_import_that_leads_elsewhere_is_a_change(select: Select) -> None:
    moved = "from lpp.store.numbers import twice as half"
    assert select("tests/test_all.py", "from lpp.store.numbers import half", moved) == ["test_half"]


def test_a_branch_is_compared_with_main_and_main_with_its_last_commit(project: Path) -> None:
    assert default_base(project) == "HEAD~1"
    git(project, "checkout", "-b", "topic")
    (project / "store" / "numbers.py").write_text("")
    git(project, "commit", "--all", "--message", "empty")
    (project / "new.txt").write_text("")
    base = default_base(project)
    assert changed_files(project, base) == ["new.txt", "store/numbers.py"]


@pytest.mark.slow
def test_the_graph_of_this_project() -> None:
    graph = Graph(ROOT)

    def files(target: str) -> set[str]:
        """Files with a test that reaches a definition."""
        changed = {*graph.resolve(target)} - {*graph.resolve("lpp.analyze.__getattr__")}
        return {name.removeprefix("tests.") for name, _ in reaching(graph, changed)}

    charts = files("lpp.analyze.depth_chart")
    assert {"analyze.test_charts", "analyze.test_report"} <= charts
    shards = {"store.test_verify", "store.test_writer"}
    assert shards <= files("lpp.store.runs.shards.Shard") - charts


@pytest.mark.slow
def test_the_command_runs_what_changed_and_passes_options_on() -> None:
    words = [sys.executable, "tests/support/changed.py", "HEAD", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
