"""A store: the directory that holds runs, SPEC.md section 2."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Final

from lpp.store.errors import LppError
from lpp.store.format.keys import COMMIT_KEY, RUNS_KEY, SHARDS_KEY
from lpp.store.format.plan import Plan
from lpp.store.format.run_names import find_run, names_among
from lpp.store.objects.place import Place, Url
from lpp.store.objects.protocol import Objects
from lpp.store.root import find_if_any, find_store, make_store
from lpp.store.runs.read import Run
from lpp.store.runs.shards import is_run

LOST: Final = (
    f"its record, {COMMIT_KEY}, is lost; the command that captured it writes the record again and "
    "keeps its shards"
)
"""For a run in `Store.lost`: what is wrong with it, and the next command."""


class Store:
    """A store, on a disk or in a bucket. Make one with `open_store` or `create_store`."""

    def __init__(self, root: Objects) -> None:
        self.objects = root

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self.runs)} runs)"

    @property
    def path(self) -> Place:
        """Its directory, or its prefix in a bucket."""
        return self.objects.place

    @cached_property
    def runs(self) -> Mapping[str, Run]:
        """Committed runs by id, sorted, as they were at the first access.

        A directory without a COMMIT record is no run. One that is closed to this user is a run:
        reading it raises PermissionError, which names it.
        """
        names = [entry.name for entry in self.objects.entries(RUNS_KEY)]
        names = [name for name in names if not name.startswith(".") and is_run(self.objects, name)]
        return {name: Run(self.path / RUNS_KEY / name, lambda: self.names) for name in names}

    def lost(self, known: Collection[str] | None = None) -> list[Run]:
        """Runs that are in no list because their own COMMIT record is gone: they hold committed
        shards. known: ids of the committed runs; those of `runs` by default.
        """
        known = self.runs if known is None else known
        lost = []
        for entry in self.objects.entries(RUNS_KEY):
            if entry.name.startswith(".") or entry.name in known:
                continue
            shards = self.objects.below(f"{RUNS_KEY}/{entry.name}/{SHARDS_KEY}")
            with suppress(LppError):  # a link, a pipe: nobody's run
                if any(shards.exists(f"{shard.name}/{COMMIT_KEY}") for shard in shards.entries()):
                    lost.append(Run(self.path / RUNS_KEY / entry.name))
        return lost

    @property
    def plans(self) -> dict[str, Plan | None]:
        """The plan of each run by id; None if it is damaged, or of another release."""
        return self.plans_of(self.runs)

    def plans_of(self, runs: Iterable[str]) -> dict[str, Plan | None]:
        """`plans` of some runs, by id."""
        plans: dict[str, Plan | None] = dict.fromkeys(runs)
        for run in plans:
            with suppress(LppError, OSError):
                plans[run] = self.runs[run].plan
        return plans

    @cached_property
    def names(self) -> dict[str, str]:
        """Names by run id, distinct within the store; of runs whose plan is readable."""
        return names_among(self.plans)

    def run(self, name: str) -> Run:
        """The run that `name` means: an id, a name such as `untrained, seed 0`, the beginning of
        either, or a pattern.

        Raises InputError NOT_FOUND if no run or several runs match.
        """
        return self.runs[find_run(name, self.plans, self.path)]


def open_store(url: Url) -> Store:
    """Open the store at `url`: a directory, `s3://bucket/prefix`, or to read only
    `https://server/folder` or `hf://datasets/OWNER/NAME[@REVISION][/folder]`.

    Raises FormatError: NOT_A_STORE when there is none, UNSUPPORTED_VERSION when a newer release
    wrote it. MachineError: DENIED or UNREACHABLE, of an object store.
    """
    return Store(find_store(url))


def create_store(url: Url) -> Store:
    """Open the store at `url`; makes an empty store if there is nothing yet.

    Raises InputError for a directory with other things in it: a store never mixes with them;
    MachineError for a place without exclusive creation.
    """
    return Store(make_store(url))


def open_if_any(url: Url) -> Store | None:
    """Open the store at `url`; None if there is none and `create_store` could make one. Leaves
    nothing behind.

    Raises what `create_store` would.
    """
    root = find_if_any(url)
    return None if root is None else Store(root)
