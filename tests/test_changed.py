"""`make test-changed`: a change selects the files of tests that reach it, and no others."""

import os
import subprocess
from pathlib import Path

import pytest
from changed import Graph, changed_files, default_base, selected
from imports import ROOT

FILES = {
    "pyproject.toml": '[project.scripts]\nlpp-analyze = "lpp.analyze.cli.command:main"\n',
    "README.md": "# Read\n",
    "store/numbers.py": "def twice(x):\n    return 2 * x\n",
    "store/halves.py": "HALF = 0.5\n",
    "store/text.sql": "SELECT 1",
    "store/reader.py": 'NAME = "text.sql"\n',
    "analyze/__init__.pyi": "from .charts import draw as draw\n",
    "analyze/__init__.py": "",
    "analyze/charts.py": "def draw(x):\n    from lpp.store.numbers import twice\n",
    "analyze/cli/command.py": "from lpp.analyze.cli.diff import diff\n"
    "from lpp.analyze.cli.show import shown\n",
    "analyze/cli/diff.py": "from lpp.store.halves import HALF as diff\n",
    "analyze/cli/show.py": "shown = 1\n",
    "tests/drawn/conftest.py": "from lpp.analyze import draw\n",
    "tests/drawn/test_fixture.py": "def test_fixture(drawn): ...\n",
    "tests/support/helper.py": "ONE = 1\n",
    "tests/test_diff.py": 'def test_diff(run):\n    run("lpp-analyze", "diff")\n',
    "tests/test_show.py": 'import helper\nRUN = "lpp.analyze.cli.command"\nWORDS = "show --all"\n',
    "tests/test_read.py": "from lpp.store import reader\n",
}


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


@pytest.mark.parametrize(
    ("file", "text", "tests"),
    [
        ("store/numbers.py", "def twice(x):\n    return 3 * x\n", ["tests/drawn/test_fixture.py"]),
        ("store/numbers.py", "# a comment\n" + FILES["store/numbers.py"], []),
        ("store/halves.py", "HALF = 0.25\n", ["tests/test_diff.py"]),
        ("store/text.sql", "SELECT 2", ["tests/test_read.py"]),
        ("analyze/cli/show.py", "shown = 2\n", ["tests/test_show.py"]),
        ("analyze/cli/command.py", "", ["tests/test_diff.py", "tests/test_show.py"]),
        ("tests/drawn/conftest.py", "", ["tests/drawn/test_fixture.py"]),
        ("tests/support/helper.py", "ONE = 2\n", ["tests/test_show.py"]),
        ("tests/test_new.py", "def test_new(): ...\n", ["tests/test_new.py"]),
        ("README.md", "# Write\n", ["tests"]),
        ("pyproject.toml", FILES["pyproject.toml"] + "\n", ["tests"]),
    ],
)
def test_a_change_selects_the_tests_that_reach_it(
    project: Path, file: str, text: str, tests: list[str]
) -> None:
    (project / file).write_text(text)
    assert selected(Graph(project), "HEAD", changed_files(project, "HEAD")) == tests


def test_a_branch_is_compared_with_main_and_main_with_its_last_commit(project: Path) -> None:
    assert default_base(project) == "HEAD~1"
    git(project, "checkout", "-b", "topic")
    (project / "store" / "numbers.py").write_text("")
    git(project, "commit", "--all", "--message", "empty")
    (project / "new.txt").write_text("")
    assert changed_files(project, default_base(project)) == ["new.txt", "store/numbers.py"]


@pytest.mark.slow
def test_the_graph_of_this_project() -> None:
    graph = Graph(ROOT)
    chart, plan = "lpp.analyze.charts.profiles", "lpp.store.format.plan"
    assert chart in graph.reached("tests.analyze.test_charts")
    of_plan = graph.reached("tests.store.test_plan")
    assert (chart in of_plan, plan in of_plan) == (False, True)
