"""Names of runs, and the run that a name means."""

from collections.abc import Iterable

from lpp.analyze.runs.incomplete import lost_lines
from lpp.analyze.runs.keys import RunView, Url
from lpp.store import Run, open_store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import Plan
from lpp.store.format.run_names import matching_runs, told_apart
from lpp.store.objects.place import absolute


def plans_of(views: Iterable[RunView]) -> dict[str, Plan | None]:
    """The plan of each run by its id; None if it cannot be read."""
    return {view.run.id: None if view.problem else view.run.plan for view in views}


def names_of(runs: Iterable[Run]) -> dict[str, str]:
    """The name of each run in its store, by id; told apart where two stores have one name."""
    by_id = {run.id: run for run in runs}
    names = {name: run.name for name, run in by_id.items()}
    return told_apart(names, {name: run.plan for name, run in by_id.items()})


def names_of_two(a: RunView, b: RunView) -> tuple[str, str]:
    """Names of two runs, which may belong to different stores."""
    if a.run.plan.hash == b.run.plan.hash:  # one run twice: no name could distinguish them
        return a.run.name, b.run.name
    names = names_of((a.run, b.run))
    return names[a.run.id], names[b.run.id]


def run_named(url: Url, name: str | None) -> RunView:
    """The run of the store at `url` that `name` means, as of `Store.run`; None means the only one
    on a corpus.

    Raises InputError if no run or several runs match, or the store has none.
    """
    store = open_store(absolute(url))
    if not store.runs:
        raise no_runs(url)
    if name is None:
        runs = matching_runs(["*"], store.plans)
        if len(runs) > 1:
            names = "; ".join(store.names.get(run, run) for run in runs)
            raise InputError(f"{url} has several runs: {names}. Name one after the store.")
        name = runs[0]
    return RunView(store.run(name))


def store_and_run(store: Url, name: str) -> tuple[Url, str]:
    """Split `STORE::RUN` into its store and its run; a name alone belongs to `store`.

    >>> store_and_run("./lpp", "base"), store_and_run("./lpp", "./other::base")
    (('./lpp', 'base'), ('./other', 'base'))
    """
    location, separator, run = name.rpartition("::")
    return (location if separator and location else store), run


def no_runs(url: Url) -> InputError:
    """The error for a store without runs."""
    lost = lost_lines(url, ())
    none = f"{url} holds no runs yet. `lpp-capture run --model ... --store {url}` makes one."
    return InputError(" ".join(lost) or none, kind=ErrorKind.NOT_FOUND)
