"""Probes as pages: of a label, the best site beside the best control, then every site; of a test on
another run, the verdict and its numbers.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.gate.verdicts import Verdict
from lpp.analyze.numerics.probe_change import floors
from lpp.analyze.pages.page import Figure, Opening, Page, Section
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.pages.words import (
    Code,
    Flag,
    Ref,
    Run,
    Sentence,
    clause,
    ends,
    hundredths,
    probability,
    signed,
    with_interval,
)
from lpp.analyze.probes.against import ProbeComparison
from lpp.analyze.probes.against_tables import COMPARISON_KEY, tests_frame
from lpp.analyze.probes.analysis import ProbeAnalysis, Q
from lpp.analyze.probes.labels import Labels
from lpp.analyze.probes.mistakes import worst_predicted
from lpp.analyze.probes.page_parts import (
    CONTROLS,
    MISTAKES,
    PERFECT,
    READING,
    RELIABILITY,
    SITES,
    TESTS,
    TESTS_READING,
    conclusion,
    probe_charts,
    shaped,
    tested,
)
from lpp.analyze.probes.tables import (
    KEY,
    MEANING,
    PROBE_RELIABILITY,
    PROBES,
    probe_flags,
    probe_tables,
)
from lpp.analyze.questions import LabelProbeSettings
from lpp.store.format.run_names import run_names
from lpp.store.settings.setting import as_python
from lpp.store.units import counted

_CONTROLS: Final = (
    "length: tokens of the prompt and their square; of last rows, that is the position too. "
    "surprisal: mean -ln p of the tokens. tokens: how often each of the 1,000 most common tokens "
    "occurs. embed: rows that know no context."
)


def probe_page(store: str, analysis: ProbeAnalysis) -> Page:
    """The page of an analysis. store: its path as it was given. Raises FormatError for altered
    bytes.
    """
    run, frames, call = analysis.view.run, probe_tables(analysis), _call(store, analysis)
    probes, mistakes, best = frames[PROBES.name], worst_predicted(analysis), analysis.best
    bins = frames[PROBE_RELIABILITY.name].filter(probe=best.name)

    def table(shape: Shape, frame: pl.DataFrame, code: str, **more: Any) -> Table:
        return shaped(
            shape, frame.drop(KEY, strict=False), code=f"{call}\n{code}", folded=False, **more
        )

    of_tables = "probe_tables(found)"
    of_sites = f"{of_tables}['probes'].filter(role='site')"
    of_controls = f"{of_tables}['probes'].filter(role='control')"
    of_bins = f"{of_tables}['probe_reliability'].filter(probe={best.name!r})"
    sites = table(SITES, probes.filter(role="site"), of_sites)
    controls = table(CONTROLS, probes.filter(role="control"), of_controls)
    reliability = table(RELIABILITY, bins, of_bins)
    wrong = table(MISTAKES, mistakes, "worst_predicted(found)")
    runs = RunStyles(run_names({run.id: run.plan}))
    by_name = {part.name: part for part in (sites, reliability)}
    drawn = {PROBES.name: probes, PROBE_RELIABILITY.name: bins}
    depth, *diagram = probe_charts(drawn, by_name, runs)
    sections = [
        Section(
            "probes",
            "What predicts the label",
            charts=(replace(depth, opens=True),),
            tables=(sites, controls) if controls.frame.height else (sites,),
            short="Probes",
            more=f"{READING} {_CONTROLS}",
        ),
        Section(
            "mistakes",
            "The most confident mistakes",
            tables=(wrong,) if mistakes.height else (),
            notes=() if mistakes.height else (("No prompt is on the wrong side.",),),
        ),
    ]
    if best.name in analysis.calibrations:  # of a number there are none
        calibration = Section(
            "calibration",
            "Are its probabilities right?",
            charts=tuple(diagram),
            tables=(reliability,),
            notes=tuple(_calibration(analysis)),
            more=_calibration_reading(analysis.labels),
        )
        sections.insert(1, calibration)
    return Page(
        title="Probes",
        about=(Code(analysis.labels.name), " from rows of ", Run(run.id)),
        opening=_opening(analysis, probes),
        findings=tuple(_findings(analysis)),
        sections=tuple(sections),
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(store)} --run probes",),
        data={**frames, "probe_mistakes": mistakes},
        store=store,
        origin=origin_of([run]),
    )


def _calibration(analysis: ProbeAnalysis) -> Iterator[Sentence]:
    """How well the best site's probabilities are calibrated, and its recall."""
    best, labels = analysis.best, analysis.labels
    calibrated = analysis.calibrations[best.name]
    beyond = "more" if calibrated.ece > calibrated.calibrated[1] else "not surely more"
    yield (
        f"The probabilities of {best.name} are off by ",
        Ref(with_interval(calibrated.ece, *calibrated.interval), RELIABILITY.name),
        f" on average (expected calibration error), {beyond} than chance gives a calibrated probe "
        f"on as many prompts (up to {hundredths(calibrated.calibrated[1])}).",
    )
    first, second = _pair(labels)
    if best.recall is None:
        yield (f"Too few {labels.of} for a recall at 1 % false alarms: it needs 100 {first}.",)
    else:
        found = with_interval(best.recall.value, *best.recall.interval)
        yield ("At 1 % false alarms it finds ", Ref(found, SITES.name), f" of those {second}.")


def _pair(labels: Labels) -> tuple[str, str]:
    """Those of the first and of the second class, in words."""
    if labels.classes and labels.two_classes:
        return f"of {labels.classes[0]}", f"of {labels.classes[1]}"
    return "of the other classes", "of a class"


def _calibration_reading(labels: Labels) -> str:
    """How to read the bins."""
    if not labels.two_classes:
        return (
            f"Bins hold equally many pairs of {labels.of} and classes, by the probability of the "
            "class out of fold; accuracy: how many are of the class."
        )
    return (
        f"Bins hold equally many {labels.of}, by the probability {_pair(labels)[1]} out of fold; "
        f"accuracy: how many are {_pair(labels)[1]}."
    )


def _opening(analysis: ProbeAnalysis, probes: pl.DataFrame) -> Opening:
    """The best site, the best control and the gain."""
    best, labels, settings = analysis.best, analysis.labels, analysis.settings
    control = analysis.control_of(best)
    unit = "AUROC" if labels.classes else "R2"
    head, row = [(best.name, unit)], [_figure(best.number.value, best.number.interval)]
    of_gain = ""
    if control is not None and best.gain is not None:
        gains = sum(site.gain is not None for site in analysis.sites)
        of_gain = f"; q: p of the gain, corrected for {counted(gains, 'site')}"
        head += [(control.name, f"{unit}, control"), ("gain", f"q {probability(best.q_value)}")]
        row += [
            _figure(control.number.value, control.number.interval),
            _figure(best.gain.value, best.gain.interval, signed),
        ]
    grouped = f", no {settings.group} divided" if settings.group else ""
    independent = (
        f"errors by {labels.errors_by} ({labels.n_clusters:,})"
        if labels.errors_by
        else f"{labels.of} taken as independent"
    )
    return Opening(
        conclusion(probes),
        f"{_counts(labels)}, rows: {settings.rows}, {settings.folds} folds"
        f"{grouped}, {independent}{of_gain}",
        tuple(head),
        (tuple(row),),
        _warnings(labels, settings),
    )


def _counts(labels: Labels) -> str:
    """`64 prompts, 31 of statements and 33 of data`: the class that a score is of comes first."""
    n = len(labels.prompts)
    if not labels.two_classes:
        return f"{n:,} {labels.of}"
    first, second = _pair(labels)
    n_second = int(labels.codes.sum())
    return f"{n:,} {labels.of}, {n_second:,} {second} and {n - n_second:,} {first}"


def _warnings(labels: Labels, settings: LabelProbeSettings) -> tuple[Sentence, ...]:
    return tuple((Flag(f), f": {clause(MEANING[f])}.") for f in probe_flags(labels, settings))


def _figure(
    value: float,
    interval: tuple[float, float] | None,
    write: Callable[[float | None], str] = hundredths,
) -> Figure:
    low, high = interval or (None, None)
    return Figure(write(value), ends(low, high, write) or "no interval")


def _findings(analysis: ProbeAnalysis) -> Iterator[Sentence]:
    sites, labels = analysis.sites, analysis.labels
    beyond = sum(site.tells_more for site in sites)
    if any(site.gain for site in sites):
        yield (
            Ref(f"{beyond} of {len(sites)} sites", SITES.name),
            f" {'tells' if beyond == 1 else 'tell'} more than the best control (q below {Q}).",
        )
    if labels.classes and any(site.number.interval is None for site in sites):
        yield (PERFECT,)
    for why, count in labels.left_out.items():
        yield (f"{count:,} {labels.of} are left out: {why}.",)


def _call(store: str, analysis: ProbeAnalysis) -> str:
    """Python that computes the analysis."""
    return (
        "from lpp.analyze import LabelProbeSettings, probe\n"
        "from lpp.analyze.probes.mistakes import worst_predicted\n"
        "from lpp.analyze.probes.tables import probe_tables\n\n"
        f"found = probe({store!r}, {analysis.labels.name!r}, {analysis.view.run.id!r}, "
        f"{as_python(analysis.settings)})"
    )


# a test on another run

_VERDICTS: Final = "SELECT label, probe, verdict, tested_auroc FROM probe_tests"
"""Columns of every test that fit a terminal."""


def against_page(
    store: str,
    comparison: ProbeComparison,
    verdicts: Sequence[Verdict] = (),
    failing: str = "",
) -> Page:
    """The page of a comparison. store: its path as it was given. verdicts: of a gate. failing: the
    verdict that --fail-if names and that came; empty: none.
    """
    views = comparison.view, comparison.tested.view
    frame = tests_frame(comparison)
    code = _test_call(store, comparison)
    table = shaped(TESTS, frame.drop(COMPARISON_KEY), code=f"{code}\ntests_frame(found)")
    sections = [Section("tests", "Sites", tables=(table,), more=TESTS_READING)]
    failed: Sentence = (f"FAIL: the verdict is {failing}. ",) if failing else ()
    if verdicts:
        decided = {views[1].run.id: verdicts}
        section = gate_page.gate_section(decided)
        (rows,) = section.tables
        sections.insert(0, replace(section, tables=(replace(rows, code=code),)))
        if not failing or any(one.failed for one in verdicts):
            failed += (gate_page.conclusion(decided),)
    runs = {view.run.id: view.run for view in views}
    return Page(
        title="A probe on another run",
        about=(
            Code(comparison.labels.name),
            " in ",
            Run(views[0].run.id),
            " and ",
            Run(views[1].run.id),
        ),
        opening=_test_opening(comparison, frame, failed),
        findings=tuple(_test_findings(comparison)),
        sections=tuple(sections),
        meanings=MEANING,
        runs=RunStyles(run_names({name: run.plan for name, run in runs.items()})),
        next=(f'lpp-sql {shlex.quote(store)} "{_VERDICTS}"',),
        data={"probe_tests": frame, "gate": gate_page.gate_rows({views[1].run.id: verdicts})},
        store=store,
        origin=origin_of([*runs.values()]),
    )


def _test_opening(comparison: ProbeComparison, frame: pl.DataFrame, failed: Sentence) -> Opening:
    best, settings, labels = comparison.best, comparison.settings, comparison.labels
    change, tests = best.change, comparison.tests
    figures = (
        _figure(best.number.value, best.number.interval),
        _figure(best.tested.value, best.tested.interval),
        _figure(change.auroc.value, change.auroc.interval, signed),
        _figure(change.flagged.difference, change.flagged.interval, signed),
    )
    field = settings.cluster or settings.group
    independent = f"errors by {field}" if field else "prompts taken as independent"
    return Opening(
        (
            *failed,
            *tested(frame.row(by_predicate=pl.col("is_best"), named=True)),
        ),
        f"{len(comparison.tested.prompts):,} prompts, rows: {settings.rows}, "
        f"margin {tests.margin:g}, {independent}",
        (("A", "AUROC"), ("B", "AUROC"), ("change", "AUROC"), ("flagged", "B - reference")),
        (figures,),
        _warnings(labels, settings),
    )


def _test_findings(comparison: ProbeComparison) -> list[Sentence]:
    best, tests, own = comparison.best, comparison.tests, comparison.tested.own
    sentences: list[Sentence] = []
    if best.rerun is not None:
        auroc, flagged = map(hundredths, floors(best.rerun))
        sentences.append(
            (f"A rerun moves the AUROC by up to {auroc} and the share by up to {flagged}.",)
        )
    elif not own:
        sentences.append(("No rerun is given (--rerun): changes have no floor.",))
    if comparison.lost.n_missing:
        sentences.append((f"{comparison.lost.n_missing:,} labelled prompts of A are not in B.",))
    if own and comparison.n_shared:
        what = "only these" if tests.shared_prompts == "only" else "these are left out"
        sentences.append((f"{comparison.n_shared:,} labelled prompts are in both runs: {what}.",))
    return sentences


def _test_call(store: str, comparison: ProbeComparison) -> str:
    """Python that computes the comparison."""
    b = comparison.tested.view.run
    runs = comparison.view.run.id, f"{b.directory.root}::{b.id}"
    settings, tests = map(as_python, (comparison.settings, comparison.tests))
    return (
        "from lpp.analyze import LabelProbeSettings, ProbeTestSettings, probe_against\n"
        "from lpp.analyze.probes.against_tables import tests_frame\n\n"
        f"found = probe_against({store!r}, {comparison.labels.name!r}, {runs!r}, {settings}, "
        f"{tests}, own_labels={comparison.tested.own})"
    )
