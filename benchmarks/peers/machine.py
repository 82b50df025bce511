"""What the measurements ran on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = (
    *("lpp-engine", "torch", "transformers", "safetensors", "nnsight", "transformer-lens"),
    "numpy",
)


def machine() -> dict[str, Any]:
    """Cores, processor, memory, and how busy it is before the first round."""
    return {
        "cores": os.cpu_count(),
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "memory_gib": round(int(_field(Path("/proc/meminfo"), "MemTotal").split()[0]) / 2**20, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Releases of what is installed, and the commit of this project."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    commit = ["git", "rev-parse", "--short", "HEAD"]
    here = Path(__file__).parent
    done = subprocess.run(commit, capture_output=True, text=True, check=False, cwd=here)
    return {**found, "commit": done.stdout.strip()}


def _field(file: Path, name: str) -> str:
    """The first value of `name` in a file of lines `name : value`; empty where there is none."""
    for line in file.read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
