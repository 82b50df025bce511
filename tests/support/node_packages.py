"""Packages of node that tests use, pinned by a `package-lock.json`.

They are installed once into the environment of the tests, in a folder named after the lock.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock


def node_modules(described: Path) -> Path:
    """The folder `node_modules` with the packages of the lock in `described`.

    Raises AssertionError if npm fails.
    """
    lock = (described / "package-lock.json").read_bytes()
    home = Path(sys.prefix) / "node-packages"
    home.mkdir(exist_ok=True)
    installed = home / hashlib.sha256(lock).hexdigest()[:16]
    with FileLock(home / "lock"):
        if not installed.is_dir():
            _install(described, installed)
    return installed / "node_modules"


def _install(described: Path, target: Path) -> None:
    npm = shutil.which("npm")
    assert npm, (
        "the tests need node and npm: install Debian's `nodejs` and `npm`, or from nodejs.org"
    )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(described / name, folder)
        words = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"npm ci failed:\n{done.stderr}"
        shutil.move(folder, target)
        Path(folder).mkdir()  # the end of the context removes it
