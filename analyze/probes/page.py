"""Probes of a label as a page: the best site beside the best control, then every site."""

import shlex
from collections.abc import Iterator
from functools import partial
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.pages.verdict import with_interval
from lpp.analyze.pages.page import Chart, Figure, Opening, Page, Section, drawing
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Declared, Table, table_of
from lpp.analyze.pages.words import (
    Code,
    Flag,
    Ref,
    Run,
    Sentence,
    Style,
    clause,
    hundredths,
    probability,
    signed,
)
from lpp.analyze.probes.analysis import EMBED, ProbeAnalysis, ProbeResult, Q
from lpp.analyze.probes.mistakes import worst_predicted
from lpp.analyze.probes.tables import (
    MEANING,
    PROBE_RELIABILITY,
    PROBE_SCORES,
    PROBES,
    probe_flags,
    probe_tables,
)
from lpp.store.format.run_names import run_names
from lpp.store.settings.setting import as_python

Names = tuple[str, ...]

_READING: Final = (
    "Scores come from probes that saw other folds alone. Gain: how much larger the number is than "
    "that of the best control, paired; q: of the gain, Benjamini and Hochberg over the sites. p, "
    "one-sided: against probes of shuffled labels, whose spread is part of every error. A probe "
    "shows that a label can be read from rows, not that the model uses it. The best site of many "
    "is partly luck."
)
_CONTROLS: Final = (
    "length: tokens of the prompt and their square; of last rows, that is the position too. "
    "surprisal: mean -ln p of the tokens. tokens: how often each of the 1,000 most common tokens "
    "occurs. embed: rows that know no context."
)
_CALIBRATION: Final = (
    "Bins hold equally many prompts, by the probability of the second class out of fold; of "
    "several classes they hold every prompt once for each class."
)
_STYLES: Final[dict[str, Style]] = {
    **dict.fromkeys(("probe_auroc", "probe_r2", "mean_difference", "score"), "hundredths"),
    **dict.fromkeys(("probe_recall", "probe_ece", "confidence", "accuracy"), "hundredths"),
    "ece_by_chance": "hundredths",
    **dict.fromkeys(("shuffled_mean", "shuffled_high", "random_mean", "random_high"), "hundredths"),
    **dict.fromkeys(("p_value", "gain_p_value", "q_value", "chance_q"), "probability"),
    "probe_gain": "signed",
}
_LABELS: Final = {
    **{"probe_auroc": "AUROC", "probe_r2": "R2", "probe_gain": "gain", "q_value": "q"},
    **{"probe_recall": "recall at 1 %", "probe_ece": "ECE"},
    **{"p_value": "p", "text_so_far": "text", "target": "label", "mean_difference": "means"},
}
_DECLARED: Final[dict[str, Declared]] = {
    column.name: column
    for column in (*PROBES.columns, *PROBE_SCORES.columns, *PROBE_RELIABILITY.columns)
}


def probe_page(store: str, analysis: ProbeAnalysis) -> Page:
    """The page of an analysis. store: its path as it was given. Raises FormatError for altered
    bytes.
    """
    run, frames, call = analysis.view.run, probe_tables(analysis), _call(store, analysis)
    probes, mistakes, best = frames[PROBES.name], worst_predicted(analysis), analysis.best
    number = "probe_auroc" if analysis.labels.classes else "probe_r2"
    controls = [control.name for control in analysis.controls]
    bins = frames[PROBE_RELIABILITY.name].filter(probe=best.name)

    def of_probes(name: str, title: str, part: pl.DataFrame, first: Names, only: str) -> Table:
        code = f"{call}\nprobe_tables(found)['probes'].filter({only})"
        return _table(name, title, part, (*first, "probe_recall"), key="probe", code=code)

    sites = of_probes(
        "probe-sites",
        "Sites by depth, with 95 % intervals",
        probes.filter(role="site"),
        ("probe", number, "control", "probe_gain", "q_value"),
        "role='site'",
    )
    of_controls = of_probes(
        "probe-controls",
        "Controls, which read no rows",
        probes.filter(pl.col("probe").is_in(controls)),
        ("probe", number, "p_value"),
        "role='control'",
    )
    reliability = _table(
        "probe-reliability",
        f"Bins of prompts by the probability that the probe of {best.name} gives",
        bins,
        ("bin", "n", "confidence", "accuracy"),
        key="bin",
        code=f"{call}\nprobe_tables(found)['probe_reliability'].filter(probe={best.name!r})",
    )
    wrong = _table(
        "probe-mistakes",
        f"Prompts that the probe of {best.name} is most wrong about",
        mistakes,
        ("prompt_id", "target", "score", "text_so_far"),
        key="prompt_id",
        code=f"{call}\nworst_predicted(found)",
    )
    by_depth = Chart(
        "probe-depth",
        "probes",
        sites,
        "By depth",
        "Each site with its 95 % interval. Grey bands: intervals of the controls; a site inside a "
        "band tells no more than that control.",
        partial(drawing("probe_depth_chart"), probes),
        opens=True,
    )
    diagram = Chart(
        "probe-reliability",
        "calibration",
        reliability,
        "Reliability",
        "How many prompts of a bin are of the class, by the probability that the probe gives.",
        partial(drawing("probe_reliability_chart"), bins),
    )
    sections = [
        Section(
            "probes",
            "What predicts the label",
            charts=(by_depth,),
            tables=(sites, of_controls) if controls else (sites,),
            short="Probes",
            more=f"{_READING} {_CONTROLS}",
        ),
        Section(
            "calibration",
            "Are its probabilities right?",
            charts=(diagram,),
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
        opening=_opening(analysis),
        findings=tuple(_findings(analysis)),
        sections=tuple(part for part in sections if bins.height or part.name != "calibration"),
        meanings=MEANING,
        runs=RunStyles(run_names({run.id: run.plan})),
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
        Ref(with_interval(calibrated.ece, *calibrated.interval), "probe-reliability"),
        f" on average (expected calibration error), {beyond} than chance gives a calibrated probe "
        f"on as many prompts (up to {hundredths(calibrated.calibrated[1])}).",
    )
    if best.recall is None:
        yield ("Too few prompts for a recall at 1 % false alarms: the other class needs 100.",)
    else:
        found = with_interval(best.recall.value, *best.recall.interval)
        yield ("At 1 % false alarms it finds ", Ref(found, "probe-sites"), " of the class.")


def _table(
    name: str, title: str, frame: pl.DataFrame, first: tuple[str, ...], *, key: str, code: str
) -> Table:
    return table_of(
        name,
        title,
        frame.select(column for column in frame if column.null_count() < len(column)),
        _DECLARED,
        first=first,
        styles=_STYLES,
        labels=_LABELS,
        key=(key,),
        code=code,
    )


def conclusion(analysis: ProbeAnalysis) -> Sentence:
    """Which site predicts the label best, and whether a control explains it."""
    best, run = analysis.best, Run(analysis.view.run.id)
    control = analysis.control_of(best)
    what = _what(analysis)
    if control is not None and analysis.is_explained(best):
        return (
            Ref(f"{_name(control)} alone", "probe-controls"),
            f" {what} ({_number(analysis, control)}), and no site of ",
            run,
            f" does so better (best: {best.name}, {_number(analysis, best)}): what its probes read "
            f"may be {control.name}.",
        )
    if not best.is_informative:
        return (
            "No site of ",
            run,
            f" {what} beyond chance (best: {best.name}, {_number(analysis, best)}).",
        )
    words = (
        f" {what} best ({_number(analysis, best)})"
        if best.tells_more or control is None
        else f" {what} ({_number(analysis, best)}), but not surely more than controls do"
    )
    beyond = ""
    if control is not None and best.gain is not None:
        verb = "more than" if best.gain.value >= 0 else "less than"
        value = hundredths(abs(best.gain.value))
        beyond = f", {value} {verb} the best control, {control.name}"
    return (Ref(best.name, "probe-sites"), " of ", run, f"{words}{beyond}.")


def _name(control: ProbeResult) -> str:
    if control.name == EMBED:
        return "The site embed"
    return {"length": "The length of prompts", "surprisal": "Mean surprisal"}.get(
        control.name.partition(" ")[0], "The bag of tokens"
    )


def _what(analysis: ProbeAnalysis) -> str:
    classes = analysis.labels.classes
    if classes is None:
        return f"predicts {analysis.labels.name}"
    field = analysis.labels.name.partition("=")[0]
    if classes[2:]:
        return f"tells {len(classes)} classes of {field} apart"
    return f"tells {field} {classes[1]} from {classes[0]}"


def _number(analysis: ProbeAnalysis, result: ProbeResult) -> str:
    return f"{'AUROC' if analysis.labels.classes else 'R2'} {hundredths(result.number.value)}"


def _opening(analysis: ProbeAnalysis) -> Opening:
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
        conclusion(analysis),
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
            Ref(f"{beyond} of {len(sites)} sites", "probe-sites"),
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
