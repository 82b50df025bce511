"""The wheel holds what it should and nothing else; the metadata says what it needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import imports
from one_extra import needed
from packaging.utils import canonicalize_name
from promised import PROMISED, PROMISED_ELSEWHERE
from release_check import chosen, version_problems

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("analyze", "capture", "sql", "store")
EXTRAS = {*PROMISED, *PROMISED_ELSEWHERE} - {""}
IN_WHEEL = re.compile(
    r".+\.(css|csv|html|j2|js|json|md|pyi?|sql|tar)|.+/py\.typed"
    r"|.+/(packaged_)?tasks/.+\.(yaml|toml|jsonl)|.+/python_reference/.+\.txt"
)


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Files of the working tree that are, or would be, part of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel, built without a network from a copy of the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "made"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (copy / "made").iterdir()
    assert path.name.endswith("-py3-none-any.whl")
    return zipfile.Path(path)


@pytest.fixture(scope="module")
def names(wheel: zipfile.Path) -> list[str]:
    return [name for name in wheel.root.namelist() if not name.endswith("/")]  # no implied folders


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.Path, names: list[str]) -> Message:
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr((wheel / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.mark.slow
def test_wheel_holds_the_four_packages_and_nothing_else(
    names: list[str], tracked: list[str]
) -> None:
    ours = {name for name in tracked if name.split("/")[0] in PACKAGES and "/" in name}
    expected = {f"lpp/{name}" for name in ours if IN_WHEEL.fullmatch(name)}
    expected |= {"lpp/__init__.py", "lpp/py.typed"}
    assert len(expected) > 20
    found = {name for name in names if ".dist-info/" not in name}
    assert found == expected
    left_out = {name for name in ours if not IN_WHEEL.fullmatch(name)}
    assert left_out == set(), "package data that no wheel would carry"


def test_every_package_is_typed_and_documented(names: list[str]) -> None:
    for package in PACKAGES:
        assert f"lpp/{package}/py.typed" in names
        assert f"lpp/{package}/__init__.py" in names
    assert {"lpp/store/SPEC.md", "lpp/store/README.md"} <= set(names)


def test_the_version_is_that_of_the_distribution(
    wheel: zipfile.Path, project: dict[str, Any], tmp_path: Path
) -> None:
    wheel.root.extractall(tmp_path)
    code = "import lpp, lpp.store; print(lpp.__version__, lpp.__file__)"
    packages = sysconfig.get_path("purelib")  # without -S it would bring the editable install too
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": os.pathsep.join((str(tmp_path), packages))},
        capture_output=True,
        text=True,
        check=True,
    )
    version = project["project"]["version"]
    assert done.stdout.split() == [version, str(tmp_path / "lpp" / "__init__.py")]


def test_wheel_carries_its_licence_and_commands(wheel: zipfile.Path, names: list[str]) -> None:
    licences = [name.partition(".dist-info/licenses/")[2] for name in names]
    assert {"LICENSE", "capture/corpus/python_reference/LICENSE.txt"} <= {*licences}
    assert "lpp/capture/corpus/python_reference/articles.txt" in names
    (name,) = (name for name in names if name.endswith("entry_points.txt"))
    text = (wheel / name).read_text("utf-8")
    for command in ("capture", "analyze", "sql"):
        assert f"lpp-{command} = lpp.store.terminal.entry:{command}" in text


def test_metadata_says_what_is_needed(metadata: Message) -> None:
    assert metadata["Name"] == "lpp-engine"
    assert metadata["License-Expression"] == "Apache-2.0 AND PSF-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    required = metadata.get_all("Requires-Dist", [])
    base = {re.split(r"[<>=!~ ;\[]", line)[0] for line in required if "extra ==" not in line}
    assert {"click", "duckdb", "numpy", "polars", "pyarrow"} <= base
    assert not base & {"torch", "transformers", "datasets", "vllm", "accelerate"}


def test_no_pin_to_a_build_variant(project: dict[str, Any]) -> None:
    assert "+cpu" not in (ROOT / "pyproject.toml").read_text("utf-8")
    for requirement in requirements(project):
        assert "==" not in requirement, requirement


def test_the_citation_is_of_this_release(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == project["project"]["version"]
    assert citation["license"] == project["project"]["license"].partition(" AND ")[0]
    assert "2605.30018" in citation["references"][0]["url"]


# `make release-check`.


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A tree whose files agree about the version."""
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "1.2.0.md").write_text("lpp-engine 1.1.0 did not.")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\ndate-released: 2026-02-03\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (2026-02-03)\n\n## 1.1.0\n")
    (tmp_path / "README.md").write_text("lpp_engine-1.2.0-py3-none-any.whl; numpy 2.0.1\n")
    return tmp_path


def test_files_that_agree_about_a_release(release: Path) -> None:
    assert list(version_problems(release)) == []


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("CITATION.cff", "1.2.0", "1.1.0", ("CITATION.cff", "CHANGELOG.md")),
        ("CITATION.cff", "2026-02-03", "2026-02-04", ("CHANGELOG.md",)),
        ("CHANGELOG.md", "## 1.2.0", "## Unreleased\n\n## 1.2.0", ("CHANGELOG.md",)),
        ("pyproject.toml", "1.2.0", "1.3.0", ("CITATION.cff", "changes/1.3.0.md", "README.md")),
        ("README.md", "lpp_engine-1.2.0", "lpp-engine 1.1.0", ("README.md",)),
    ],
)
def test_a_version_or_a_day_that_differs_is_found(
    release: Path, name: str, before: str, after: str, said: tuple[str, ...]
) -> None:
    text = (release / name).read_text()
    assert before in text
    (release / name).write_text(text.replace(before, after, 1))
    assert tuple(one.partition(":")[0] for one in version_problems(release)) == said


def test_patterns_leave_checks_of_extras_out() -> None:
    everything, fewer = list(chosen([])), list(chosen(["3.14:*", "*:vllm", "3.12:base"]))
    assert all(is_checked for *_, is_checked in everything)
    assert {extra for _, extra, _ in everything} == {"", *EXTRAS}
    left_out = {(python, extra) for python, extra, is_checked in fewer if not is_checked}
    of_314 = {("3.14", extra) for extra in {"", *EXTRAS}}
    assert left_out == of_314 | {(f"3.{k}", "vllm") for k in (11, 12, 13)} | {("3.12", "")}


BARE_NAME = re.compile(r"""pip\s+install[^\n`)]*(?<![./\w-])lpp-engine|'lpp-engine\[""")


def test_nothing_tells_anyone_to_install_our_name_from_an_index(tracked: list[str]) -> None:
    read = (n for n in tracked if n.endswith((".py", ".md", ".yml", ".ipynb", ".cff")))
    told = [name for name in read if BARE_NAME.search((ROOT / name).read_text("utf-8"))]
    assert told == [], "it is on no index: install from the clone, pip install '.[torch]'"


def requirements(project: dict[str, Any]) -> list[str]:
    listed: list[str] = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        listed += extra
    return listed


def test_every_requirement_has_a_reason(project: dict[str, Any]) -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    for requirement in requirements(project):
        if requirement.startswith("lpp-engine["):
            continue  # an extra of our own, which gives its reasons itself
        beside = [line for line in lines if f'"{requirement}"' in line]
        assert beside, requirement
        for line in beside:
            _, _, reason = line.rpartition('"')
            assert re.search(r"#\s*\S.{4,}", reason), f"no reason beside {requirement}"


def test_packages_are_those_of_the_house(project: dict[str, Any]) -> None:
    found = sorted(
        f"lpp.{path.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    )
    assert sorted(project["tool"]["setuptools"]["packages"]) == ["lpp", *found]


# Each extra alone: what it promises runs with its own requirements, whatever is installed beside.

STORE = ROOT / "tests" / "store" / "golden" / "v3"


def with_one_extra(
    extra: str, wanted: list[list[str] | str], folder: Path
) -> subprocess.CompletedProcess[str]:
    program = ROOT / "tests" / "support" / "one_extra.py"
    return subprocess.run(
        [sys.executable, str(program), extra],
        cwd=folder,
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("extra", PROMISED)
def test_an_extra_alone_brings_what_it_promises(extra: str, tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "store")
    done = with_one_extra(extra, PROMISED[extra], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_what_another_extra_brings_is_missing(tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "store")
    for extra, words, other in (
        ("", "lpp.capture.backends.torch_backend", "torch"),
        ("torch", ["lpp-analyze", "report", "store", "-o", "r.html"], "altair"),
    ):
        done = with_one_extra(extra, [words], tmp_path)
        assert done.returncode != 0
        assert other in done.stderr


FROM_OTHERS = {"hs_connectors", "inspect_ai", "speculators", "IPython", "vllm"}
"""Modules that are there only where their own programs run this code or wrote its files, and vLLM,
which has an environment of its own.
"""


@pytest.mark.slow
def test_every_imported_package_comes_with_the_base_or_an_extra() -> None:
    owners = packages_distributions()
    brought = set.union(*(needed(extra) for extra in PROMISED))
    wanted = {
        target.partition(".")[0]: f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for target, line in imports(path)
    }
    third_party = wanted.keys() - sys.stdlib_module_names - {"lpp"} - FROM_OTHERS
    assert len(third_party) > 15
    for module in third_party:
        assert brought & {*map(canonicalize_name, owners.get(module, []))}, wanted[module]
