"""A process that finds the base and one extra of this project, and no other installed package.

`python one_extra.py EXTRA` reads a JSON list from standard input: of command lines, each run as a
user does, and of names of modules, each imported. The packages of an extra are those that its
requirements lead to, by the metadata of what is installed: without a second environment.
"""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from importlib.metadata import packages_distributions as modules_of_distributions
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
from promised import run_and_import

PROJECT: Final = "lpp-engine"


def needed(extra: str) -> set[str]:
    """Names of the distributions that the base and `extra` lead to; "" for the base alone.

    Raises PackageNotFoundError if one is not installed, AssertionError if one has a release that a
    requirement on the way excludes.
    """
    waiting, seen = [(PROJECT, extra)], set[tuple[str, str]]()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and not marker.evaluate({"extra": wanted}):
                continue
            release = distribution(requirement.name).version
            assert requirement.specifier.contains(release, prereleases=True), (name, line, release)
            waiting += [(canonical(requirement.name), more) for more in ("", *requirement.extras)]
    return {name for name, _ in seen}


class Only:
    """A finder of modules and distributions that does not see some of them."""

    def __init__(self, finder: Any, modules: set[str], distributions: set[str]) -> None:
        self.finder, self.modules, self.distributions = finder, modules, distributions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As if hidden modules were not in site-packages; a package may carry its own copy."""
        if path is None and name in self.modules:
            path = [folder for folder in sys.path if not folder.endswith("site-packages")]
        return self.finder.find_spec(name, path, target)

    def find_distributions(self, context: Any) -> Iterator[Distribution]:
        """The distributions that may be seen."""
        find = getattr(self.finder, "find_distributions", lambda _: ())
        return (found for found in find(context) if canonical(found.name) in self.distributions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hide_others(extra: str) -> None:
    """Let this process find the base and `extra`, and no other installed package."""
    names = needed(extra)
    hidden = {
        module
        for module, owners in modules_of_distributions().items()
        if names.isdisjoint(map(canonical, owners))
    }
    for module in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[module]
    sys.meta_path[:] = [Only(finder, hidden, names) for finder in sys.meta_path]


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    hide_others(sys.argv[1])
    run_and_import(wanted)
