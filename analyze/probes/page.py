"""Probes of a label as a page: the best site beside the best control, then every site."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.pages.verdict import with_interval
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
    hundredths,
    probability,
    signed,
)
from lpp.analyze.probes.analysis import ProbeAnalysis, ProbeResult, Q
from lpp.analyze.probes.mistakes import worst_predicted
from lpp.analyze.probes.page_parts import (
    CONTROLS,
    MISTAKES,
    READING,
    RELIABILITY,
    SITES,
    conclusion,
    probe_charts,
    shaped,
)
from lpp.analyze.probes.tables import (
    KEY,
    MEANING,
    PROBE_RELIABILITY,
    PROBES,
    probe_flags,
    probe_tables,
)
from lpp.store.format.run_names import run_names
from lpp.store.settings.setting import as_python

_CONTROLS: Final = (
    "length: tokens of the prompt and their square; of last rows, that is the position too. "
    "surprisal: mean -ln p of the tokens. tokens: how often each of the 1,000 most common tokens "
    "occurs. embed: rows that know no context."
)
_CALIBRATION: Final = (
    "Bins hold equally many prompts, by the probability of the second class out of fold; of "
    "several classes they hold every prompt once for each class."
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
            "calibration",
            "Are its probabilities right?",
            charts=tuple(diagram),
            tables=(reliability,),
            notes=tuple(_calibration(analysis)),
            more=_CALIBRATION,
        ),
        Section(
            "mistakes",
            "The most confident mistakes",
            tables=(wrong,) if mistakes.height else (),
            notes=() if mistakes.height else (("No prompt is on the wrong side.",),),
        ),
    ]
    return Page(
        title="Probes",
        about=(Code(analysis.labels.name), " from rows of ", Run(run.id)),
        opening=_opening(analysis, probes),
        findings=tuple(_findings(analysis)),
        sections=tuple(part for part in sections if bins.height or part.name != "calibration"),
        meanings=MEANING,
        runs=runs,
        next=(f'lpp-sql {shlex.quote(store)} "FROM probes"',),
        document=probes.to_dicts(),
        csv=probes,
        store=store,
        origin=origin_of([run]),
    )


def _calibration(analysis: ProbeAnalysis) -> Iterator[Sentence]:
    """How well the best site's probabilities are calibrated, and its recall."""
    best = analysis.best
    calibrated = analysis.calibrations[best.name]
    beyond = "more" if calibrated.ece > calibrated.calibrated[1] else "no more"
    yield (
        f"The probabilities of {best.name} are off by ",
        Ref(with_interval(calibrated.ece, *calibrated.interval), RELIABILITY.name),
        f" on average (expected calibration error), {beyond} than chance gives a calibrated probe "
        f"on as many prompts (up to {hundredths(calibrated.calibrated[1])}).",
    )
    if best.recall is None:
        yield ("Too few prompts for a recall at 1 % false alarms: the other class needs 100.",)
    else:
        found = with_interval(best.recall.value, *best.recall.interval)
        yield ("At 1 % false alarms it finds ", Ref(found, SITES.name), " of the class.")


def _opening(analysis: ProbeAnalysis, probes: pl.DataFrame) -> Opening:
    """The best site, the best control and the gain."""
    best, labels, settings = analysis.best, analysis.labels, analysis.settings
    control = analysis.control_of(best)
    unit = "AUROC" if labels.classes else "R2"
    head, row = [(best.name, unit)], [_figure(best)]
    if control is not None and best.gain is not None:
        head += [(control.name, f"{unit}, control"), ("gain", f"q {probability(best.q_value)}")]
        low, high = best.gain.interval or (None, None)
        gain = Figure(signed(best.gain.value), f"[{signed(low)}, {signed(high)}]")
        row += [_figure(control), gain]
    grouped = f", no {settings.group} divided" if settings.group else ""
    independent = (
        f"errors by {labels.errors_by} ({labels.n_clusters:,})"
        if labels.errors_by
        else f"{labels.of} taken as independent"
    )
    return Opening(
        conclusion(probes),
        f"{len(labels.prompts):,} {labels.of}, rows: {settings.rows}, {settings.folds} folds"
        f"{grouped}, {independent}",
        tuple(head),
        (tuple(row),),
        tuple(
            (Flag(flag), f": {clause(MEANING[flag])}.") for flag in probe_flags(labels, settings)
        ),
    )


def _figure(result: ProbeResult) -> Figure:
    ends = result.number.interval
    interval = "" if ends is None else f"[{hundredths(ends[0])}, {hundredths(ends[1])}]"
    return Figure(hundredths(result.number.value), interval)


def _findings(analysis: ProbeAnalysis) -> Iterator[Sentence]:
    sites, labels = analysis.sites, analysis.labels
    beyond = sum(site.tells_more for site in sites)
    if any(site.gain for site in sites):
        yield (
            Ref(f"{beyond} of {len(sites)} sites", SITES.name),
            f" {'tells' if beyond == 1 else 'tell'} more than the best control (q below {Q}).",
        )
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
