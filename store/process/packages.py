"""Which packages an extra of this release lacks here, and the command that installs them.

The command names packages, not `lpp-engine[EXTRA]`: it is right in a clone and beside a wheel, and
takes nothing of our name from an index.
"""

import re
import shlex
from collections.abc import Iterator


def install_command(extra: str) -> str:
    """`pip install` of the packages of `extra` that are missing, or of all that it names."""
    needed = dict.fromkeys(_requirements(extra))
    missing = [requirement for requirement in needed if not _is_installed(requirement)]
    return shlex.join(["pip", "install", *(missing or needed)])


def _requirements(extra: str) -> Iterator[str]:
    from importlib import metadata  # not at every start of a command

    for line in metadata.requires("lpp-engine") or ():
        requirement, _, marker = line.partition(";")
        if f'extra == "{extra}"' in marker:
            ours = re.match(r"lpp-engine\[(.+)\]", requirement)
            yield from _requirements(ours[1]) if ours else [requirement.strip()]


def _is_installed(requirement: str) -> bool:
    from importlib import metadata

    name = re.split(r"[^\w.-]", requirement)[0]
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
