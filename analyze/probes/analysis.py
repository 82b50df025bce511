"""Probes of a label: at each site of a run, and on controls."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from lpp.analyze.numerics.moments import Rows
from lpp.analyze.numerics.probe_errors import Measured
from lpp.analyze.numerics.statistics.association import benjamini_hochberg
from lpp.analyze.probes.inputs import Which, control_rows, site_rows, which_row
from lpp.analyze.probes.labels import Labels, labels_of
from lpp.analyze.probes.rows import ProbeAnalysis, ProbeResult
from lpp.analyze.probes.tables import EMBED
from lpp.analyze.questions import LabelProbeSettings
from lpp.analyze.runs.incomplete import incomplete
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.named import run_named
from lpp.analyze.runs.select import matching
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.prompt_columns import TOKEN_PREFIX, token_columns
from lpp.store.progress import SILENT, Progress

T = TypeVar("T")


def probe(
    store: Url,
    label: str,
    run: str | None = None,
    settings: LabelProbeSettings = LabelProbeSettings(),
    *,
    progress: Progress = SILENT,
) -> ProbeAnalysis:
    """How well rows of each site predict `label`, beside controls, out of fold.

    label: a field of the prompts with classes or numbers, or FIELD=VALUE; `token.NAME` of tokens;
    `right` of the items of `settings.task`. run: needed if the store has several. progress:
    advances by one for each site, and one for the controls.

    Memory: the rows of a site as stored for each core and one more, and what `cross_fit` takes.
    Raises InputError for a run without rows or without prompts, for what `labels_of` and
    `which_row` refuse, and where no fold has two prompts (or clusters) of each class; FormatError
    for altered bytes.
    """
    view = probed_run(store, run)
    sites = matching("site", settings.sites, view.run.activation_sites, option="--sites")
    which, labels = labelled(view, sites, label, settings)
    prompts = labels.prompts
    read = sites if EMBED in sites or EMBED not in view.run.activation_sites else [EMBED, *sites]
    progress.expect(len(read) + 1)
    cores, jobs = usable_cores(), list[Future[Any]]()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores, "lpp-probe") as pool:

        def submit(work: Callable[[], T]) -> Future[T]:
            jobs.append(job := pool.submit(work))
            return job

        def rows_of(site: str) -> Rows:
            while len(waiting := [job for job in jobs if not job.done()]) > cores:
                wait(waiting, return_when="FIRST_COMPLETED")  # rows that wait are memory
            rows = site_rows(view, site, prompts, which, settings.skip_first, ends=labels.ends)
            progress.advance()
            progress.note(site)
            return rows

        of_tokens = labels.of == "tokens"
        controls = {
            f"{name} (control)" if name in view.run.sites else name: rows  # of another program
            for name, rows in control_rows(
                view, prompts, which, ends=labels.ends, of_tokens=of_tokens
            ).items()
        }
        progress.advance()
        first = {
            name: submit(partial(_result, labels, name, rows, True))
            for name, rows in controls.items()
        }
        del controls
        if EMBED in read:
            first[EMBED] = submit(partial(_result, labels, EMBED, rows_of(EMBED), False))
        done = {name: job.result() for name, job in first.items()}
        first.clear()
        known = _with_chance_q([result for result, _ in done.values()])
        numbers = {name: measured for name, (_, measured) in done.items()}

        def site_result(site: str, rows: Rows) -> ProbeResult:
            return _compared(labels, *_result(labels, site, rows, False), known, numbers)

        later = {
            site: submit(partial(site_result, site, rows_of(site)))
            for site in read
            if site != EMBED
        }
        results = {site: job.result() for site, job in later.items()}
        if EMBED in sites:
            results[EMBED] = _compared(labels, *done[EMBED], known, numbers)
    compared = _with_chance_q([results[site] for site in sites])
    tested = [k for k, site in enumerate(compared) if site.gain is not None]
    q_values = benjamini_hochberg([g.p_value for s in compared if (g := s.gain) is not None])
    for k, q in zip(tested, q_values, strict=True):
        compared[k] = replace(compared[k], q_value=q)
    analysis = ProbeAnalysis(
        view=view,
        labels=labels,
        settings=settings,
        which=which,
        sites=tuple(compared),
        all_controls=tuple(known),
        calibrations={},
    )
    best = analysis.best
    calibrations = {
        result.name: calibrated
        for result in filter(None, (best, analysis.control_of(best)))
        if (calibrated := labels.target.calibration(result.fitted)) is not None
    }
    return replace(analysis, calibrations=calibrations)


def probed_run(store: Url, name: str | None) -> RunView:
    """The run of that name, or the only one. InputError for one without a prompt that can be
    analysed.
    """
    view = run_named(store, name)
    if not view.run.n_prompts:
        why = incomplete(view.run) or "it has no prompts. Capture again."
        raise InputError(f"{view.run.id}: {why}", kind=ErrorKind.INCOMPLETE)
    return view


def labelled(
    view: RunView, sites: Sequence[str], label: str, settings: LabelProbeSettings
) -> tuple[Which, Labels]:
    """Which row of each prompt is read at `sites`, and the labels of prompts that have it.

    Raises InputError for a site without rows, and for what `which_row` and `labels_of` refuse.
    """
    names = token_columns(view.run.extra_columns)
    fields = [name.removeprefix(TOKEN_PREFIX) for name in names]
    which = which_row(settings.rows, view.run.plan.context, fields)
    for site in sites:
        view.run.require_rows(site, "float32")
    if settings.skip_first and which != "mean":
        raise InputError(
            f"--skip-first {settings.skip_first}: it leaves tokens out of a mean. Add --rows mean, "
            "or leave it out."
        )
    first = which if isinstance(which, int) else settings.skip_first
    return which, labels_of(view, label, first, settings)


_Result = tuple[ProbeResult, Measured]


def _result(labels: Labels, name: str, rows: Rows, is_control: bool) -> _Result:
    """The probe, and its numbers for a difference."""
    target = labels.target
    fitted = target.scored(rows)
    measured = target.measured(fitted)
    number = target.estimate(measured)
    if number is None:
        raise nothing_compared(labels)
    mean_difference, random = np.nan, np.array([np.nan])
    if target.classes:
        (mean_difference,) = target.aurocs(fitted.mean_difference[:, None])
        random = target.aurocs(fitted.random)
    nothing = np.empty((len(rows), 0))
    result = ProbeResult(
        name=name,
        is_control=is_control,
        fitted=replace(fitted, shuffled=nothing, random=nothing),
        number=number,
        recall=target.recall(fitted),
        mean_difference=float(mean_difference),
        random=(float(random.mean()), float(random.max())),
    )
    return result, measured


def nothing_compared(labels: Labels) -> InputError:
    """The error about folds in which no pair of classes can be compared."""
    return InputError(
        f"--label {labels.name}: no fold has prompts of both classes from two clusters or "
        "more, so nothing can be compared. Ask for fewer --folds, or name another --group or "
        "--cluster.",
        kind=ErrorKind.INCOMPLETE,
    )


def _with_chance_q(results: list[ProbeResult]) -> list[ProbeResult]:
    q_values = benjamini_hochberg([result.number.p_value for result in results])
    return [replace(one, chance_q=q) for one, q in zip(results, q_values, strict=True)]


def _compared(
    labels: Labels,
    site: ProbeResult,
    measured: Measured,
    controls: list[ProbeResult],
    numbers: Mapping[str, Measured],
) -> ProbeResult:
    """`site` with its gain over the best of the other controls. numbers: of the controls."""
    others = [control for control in controls if control.name != site.name]
    if not others:
        return site
    best = max(others, key=lambda control: control.number.value)
    gain = labels.target.estimate(measured, numbers[best.name])
    return replace(site, control=best.name, gain=gain)
