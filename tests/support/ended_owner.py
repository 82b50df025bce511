"""Temporary names that a process left which has ended, as a killed one does."""

import subprocess
import sys


def naming(name: str) -> list[str]:
    """The command that prints a temporary name of its own process, and ends."""
    code = f"from lpp.store.objects.owners import staged_name; print(staged_name({name!r}))"
    return [sys.executable, "-c", code]


def ended_name(name: str) -> str:
    """What a process that has ended left beside `name`."""
    done = subprocess.run(naming(name), capture_output=True, text=True, check=True)
    return done.stdout.strip()
