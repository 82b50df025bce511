"""The probes from request to scores in a store."""

from collections.abc import Sequence
from dataclasses import dataclass

from lpp.capture.probes.probe import ProbeResult, count_requests, run_probe
from lpp.capture.probes.store import keep, matching_run, refuse_second, source_name
from lpp.capture.probes.subject import ProbeRequest, load_subject
from lpp.store import create_store
from lpp.store.commands.console import debugging
from lpp.store.commands.progress import progress
from lpp.store.objects.place import Url


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What was asked, and where the scores are."""

    model: str
    source: str
    results: Sequence[ProbeResult]
    run: str | None
    """The run of the store that captured the same model."""
    why_no_run: str
    has_runs: bool
    """Whether the store has runs of any model."""


def probe_into(
    root: Url,
    request: ProbeRequest,
    *,
    source: str | None = None,
    run: str | None = None,
    replace: bool = False,
) -> Probed:
    """Ask the model what `request` says and keep its scores in the store at `root`.

    source: another name for the scores than `source_name`. run: which run of the store this model
    is, where several captured it. replace: put the scores in the place of this model's old ones.

    Raises InputError and MachineError for the model, ConflictError where there are scores already.
    """
    store = create_store(root)  # before the model loads: a bad path should not cost minutes
    source, quiet = source or source_name(request), not debugging()
    with progress("prepare", 1, "model") as bar:
        subject = load_subject(request, progress=bar, quiet=quiet)
        bar.advance()
    if not replace:
        refuse_second(store.path, source, subject.id, request)
    found, why = matching_run(store, subject, run)
    results = []
    with progress("probe", count_requests(request, quiet=quiet), "requests") as bar:
        for probe in request.probes:
            results.append(run_probe(probe, request, subject, progress=bar, quiet=quiet))
            bar.note(probe)
    keep(store, source, results, subject, found)
    return Probed(
        model=subject.id,
        source=source,
        results=results,
        run=found,
        why_no_run=why,
        has_runs=bool(store.runs),
    )
