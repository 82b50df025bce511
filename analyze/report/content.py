"""The content of the report, in order, for every output format."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.pages import drift_page_parts as page_parts
from lpp.analyze.drift.pages.drift_page_tables import pairs_by_kl
from lpp.analyze.evaluations import tables as item_flags
from lpp.analyze.pages.page import Chart, Opening, Origin, Page, Section, explained
from lpp.analyze.pages.provenance import origin
from lpp.analyze.pages.words import Code, Ref, Run, Sentence, listed
from lpp.analyze.probes.tables import MEANING as OF_PROBES
from lpp.analyze.quantities import correlations
from lpp.analyze.quantities import flags as number_flags
from lpp.analyze.report import drift, items, probes
from lpp.analyze.report.answers import Answer, Answers, PageRuns, ask, corpora, page_runs
from lpp.analyze.report.charts import charts, eigenvalues, page_styles
from lpp.analyze.report.drift_queries import DRIFT_QUERIES
from lpp.analyze.report.not_computed import Remedy, not_computed
from lpp.analyze.report.partly import depth_gaps, drift_gaps
from lpp.analyze.report.queries import (
    DIFFERENCES,
    EIGENVALUES,
    HOURGLASS,
    LAYERS,
    PLANS,
    QUERIES,
    SURPRISES,
    differences,
    whole,
)
from lpp.analyze.report.surprises import surprises
from lpp.analyze.runs.named import run_named
from lpp.analyze.studies.pages.profile_summary import Numbers, further, summary
from lpp.sql import saved_queries
from lpp.sql.database.outdated import doubts
from lpp.sql.place import store_root
from lpp.store.progress import SILENT, Progress
from lpp.store.units import counted


@dataclass(frozen=True, slots=True)
class _Outline:
    name: str
    short: str
    title: str
    lead: str
    queries: tuple[str, ...]


OUTLINE: Final = (
    _Outline(
        "models",
        "Runs",
        "Which models, on what, captured how",
        "One row per captured run. Runs with the same prompt set read the same texts.",
        ("runs",),
    ),
    _Outline(
        "profiles",
        "Profiles",
        "How profiles differ, and whether by more than noise",
        "Entropy floor: the smallest mean entropy of the next token over prefixes, as a share of "
        "ln V. Participation ratio and effective rank: the largest over prefixes, in dimensions "
        "and over the bound min(N, d). Intervals are 95 % jackknife intervals over prompts; that "
        "of a difference leaves the same prompts out of both runs.",
        ("profiles", "differences", "metrics", "apart"),
    ),
    _Outline(
        "training",
        "Training",
        "How profiles change along a training",
        "One row per captured checkpoint. A curve joins checkpoints of one series that read the "
        "same prompts at one site, context and number of prompts.",
        ("training",),
    ),
    _Outline(drift.SECTION, "Drift", drift.TITLE, drift.LEAD, drift.TABLES),
    _Outline(
        "depth",
        "Depth",
        "Where in depth",
        "Ranks of the whole context at every captured layer. A collapsed layer has a "
        "participation ratio within 1 % of 1: one direction hides its width.",
        ("layers", "hourglass", "spectra", "eigenvalues"),
    ),
    _Outline(
        "steadiness",
        "Steadiness",
        "How steady under prefix",
        "The same entropy after other prefixes, from the same captured states.",
        ("entropy",),
    ),
    _Outline(
        "surprises",
        "Surprises",
        "Which tokens surprised each model",
        "The next tokens of a run with the smallest probability, and what the model expected "
        "instead. A token is its id where the store has no vocabulary of the tokenizer.",
        ("surprises",),
    ),
    _Outline(items.SECTION, "", "", "", ()),
    _Outline(probes.SECTION, "", "", "", ()),
    _Outline(
        "benchmarks",
        "Benchmarks",
        "How it relates to benchmarks",
        "Every correlation with its n, its interval and q, the p-value after Benjamini and "
        "Hochberg over the tests of one source and method. The published models are a "
        "reference.",
        ("correlations", "benchmarks", "published"),
    ),
    _Outline(
        "distrust",
        "Distrust",
        "What to distrust",
        "A flag says that a number is right and easy to misread.",
        ("flags",),
    ),
)
"""Sections, in the order in which a reader asks."""


FLAGS: Final = {
    "probes": OF_PROBES,
    "correlations": correlations.MEANING,
    "numbers": number_flags.MEANING,
    "items": item_flags.MEANING,
}
"""What each flag says, by what it marks."""

MEANINGS: Final = {flag: meaning for of in FLAGS.values() for flag, meaning in of.items()}
"""What each flag of any table says."""

_ONLY_DRAWN: Final = ("training", drift.SECTION)
"""Sections that are shown only if they have a chart."""


SETTINGS: Final = 2
"""Most settings described beside that of the first screen; the table has all."""

NAMED: Final = 3
"""Most runs that the title names."""

_RARE: Final = ("differences", "metrics", "apart", "flags")
"""Tables that are often empty although everything was computed."""


def report(
    url: str, *, against: str | None = None, name: str = "", progress: Progress = SILENT
) -> Page:
    """Read the store at `url`; only charts are computed.

    against: the run that the others are compared with; by default the first one by id.
    name: of the store, for the title; by default the last part of `url`.

    Raises FormatError if `url` is not a store, ConflictError(IN_USE) while another process writes
    the database, MachineError(NO_PACKAGE) without the chart library.
    """
    doubted = doubts(store_root(url))
    for line in doubted:
        progress.warn(line)
    base = None if against is None else run_named(url, against).run.id
    chosen = page_runs(url, base)
    of_profiles = [differences(base) if query is DIFFERENCES else query for query in QUERIES]
    answers = ask(
        url, (*of_profiles, *DRIFT_QUERIES, *items.ITEM_QUERIES, *probes.PROBE_QUERIES), chosen
    )
    progress.advance()
    progress.note("tables read")
    answers[EIGENVALUES.name] = eigenvalues(url, () if chosen is None else chosen.shown)
    progress.advance()
    progress.note("spectra read")
    answers[SURPRISES.name] = surprises(url, of_some=chosen is not None)
    answers |= drift.token_answers(url, answers)
    answers[items.ITEM_EVALUATED.name] = items.evaluated_answer(url)
    answers[items.ITEM_MISTAKES.name] = items.mistake_answer(url, answers)
    if chosen is not None:
        answers |= {name: chosen.only(answer) for name, answer in answers.items()}
    progress.advance()
    progress.note("surprises read")
    source = origin(url, answers[PLANS.name].frame, () if chosen is None else chosen.all_runs)
    progress.advance()
    progress.note("provenance read")
    styles = page_styles(answers)
    drawn = [
        *charts(answers, styles),
        *drift.drift_charts(answers, styles),
    ]
    order = styles.order if base is None else (base, *(r for r in styles.order if r != base))
    numbers = _numbers(answers)
    noted = [*further(numbers, order, SETTINGS), *_not_compared(answers)]
    sections = [
        replace(section, notes=(*noted, *section.notes)) if section.name == "profiles" else section
        for section in _sections(url, answers, drawn, source, styles)
    ]
    tables = (table for section in sections for table in section.tables)
    first, findings = _first_screen(summary(numbers, order, explained(tables, MEANINGS)), answers)
    return Page(
        title=_title(
            name or os.path.basename(os.path.abspath(url)),
            [styles.name(run) for run in order],
            len(order if chosen is None else chosen.all_runs),
        ),
        about=("Store ", Code(url), *_about(url, chosen), *(f" {line}" for line in doubted)),
        opening=first,
        findings=findings,
        sections=tuple(filter(None, map(_with_rows, sections))),
        meanings=MEANINGS,
        runs=styles,
        store=url,
        origin=source,
        saved=tuple(saved_queries().values()),
        plans=answers[PLANS.name].table(),
        lacking=not_computed(
            url,
            _missing(sections, answers),
            answers,
            others=[
                *drift.partly_compared(answers, source),
                *_not_profiled(answers),
                *probes.not_probed(url, answers),
                *depth_gaps(answers, source),
                *drift_gaps(answers, source),
            ],
        ),
    )


def _title(store: str, names: Sequence[str], n_runs: int) -> str:
    """The store, the first runs by name and the number of others."""
    named = [*names[:NAMED]]
    if others := n_runs - len(named):
        named.append(f"{others} more")
    return f"{store}: {listed(named)}" if named else store


def _numbers(answers: Answers) -> Numbers:
    """The tables behind the sentences on profiles: those of evaluations only where there are no
    others.
    """
    profiles = answers[whole("profiles").name].frame
    on_corpora = profiles.filter(pl.col("run").is_in([*corpora(answers)]))
    return Numbers(
        profiles=profiles if on_corpora.is_empty() else on_corpora,
        differences=answers[DIFFERENCES.name].frame,
        layers=answers[LAYERS.name].frame,
        entropy=answers[whole("entropy").name].frame,
    )


def _not_compared(answers: Answers) -> Iterator[Sentence]:
    """Which pairs are not compared, and what chance does to those that are."""
    if answers[DIFFERENCES.name].frame.height:
        yield (
            "Two runs differ significantly if the 95 % interval of their difference excludes 0. "
            "About 1 in 20 equal pairs does so by chance: the intervals are not corrected for the "
            "number of pairs.",
        )
    if apart := answers["apart"].frame.height:
        pairs = "1 pair of runs shares" if apart == 1 else f"{apart} pairs of runs share"
        yield Ref(pairs, "apart"), " no such setting and cannot be compared."


def _first_screen(profiles: Opening, answers: Answers) -> tuple[Opening, tuple[Sentence, ...]]:
    """The opening of the page: about comparisons where there are any, and then about profiles.

    profiles: the opening about profiles alone; its flags stay.
    """
    compared = drift.frames(answers)
    pairs = pairs_by_kl(compared)
    if not pairs:
        return profiles, ()
    first = page_parts.opening(compared, pairs)
    return replace(first, warnings=(*first.warnings, *profiles.warnings)), (profiles.sentence,)


def _about(url: str, chosen: PageRuns | None) -> Sentence:
    """The runs that the page shows, where it leaves others out."""
    if chosen is None:
        return ()
    return (
        f": {len(chosen.shown)} of its {len(chosen.all_runs):,} runs, those with the smallest and "
        "the largest numbers. All of them: ",
        Code(f"lpp-sql {shlex.quote(url)} --run profiles"),
        "; the SQL below each table gives the rows of all.",
    )


def _not_profiled(answers: Answers) -> Iterator[Remedy]:
    """The command that profiles runs which were captured after the others were profiled."""
    profiled = answers["profiles"].frame
    waiting = corpora(answers).difference(profiled["run"]) if profiled.height else ()
    if waiting:
        yield Remedy(f"Profiles of {counted(len(waiting), 'run')}", "lpp-analyze profile STORE")


def _sections(
    url: str, answers: Answers, drawn: Sequence[Chart], source: Origin, runs: RunStyles
) -> Iterator[Section]:
    for outline in OUTLINE:
        if outline.name == items.SECTION:
            if items.has_items(answers):
                yield items.section(url, answers, runs)
            continue
        if outline.name == probes.SECTION:
            if probes.has_probes(answers):
                yield probes.section(answers, runs)
            continue
        if outline.name in _ONLY_DRAWN and not any(c.section == outline.name for c in drawn):
            continue  # most stores have no series
        of_outline = [answers[name] for name in outline.queries]
        yield Section(
            outline.name,
            outline.title,
            outline.lead,
            tuple(chart for chart in drawn if chart.section == outline.name),
            tuple(a.table() for a in of_outline if a.query.name not in _RARE or a.frame.height),
            tuple(_notes(outline.name, url, answers, source)),
            outline.short,
        )


def _missing(sections: Iterable[Section], answers: Answers) -> list[Answer]:
    """Answers without rows, of tables and of charts, each once."""
    shown = (
        table
        for section in sections
        for table in (*section.tables, *(chart.table for chart in section.charts))
    )
    return [answers[name] for name in dict.fromkeys(table.name for table in shown if table.missing)]


def _with_rows(section: Section) -> Section | None:
    """`section` without empty tables; None if nothing is left."""
    filled = replace(
        section,
        charts=tuple(chart for chart in section.charts if not chart.table.missing),
        tables=tuple(table for table in section.tables if not table.missing),
    )
    return None if filled.is_empty else filled


def _notes(section: str, url: str, answers: Answers, source: Origin) -> Iterator[Sentence]:
    if section == drift.SECTION:
        yield from page_parts.conclusions(drift.frames(answers))
    if section == "models":
        for run in source.unprofiled:
            yield (Run(run), " is in the store and not in its profiles: lpp-analyze profile.")
    if section == "depth":
        yield from _depth_notes(url, answers)
    if section == "distrust":
        yield from _doubts(answers, source)


def _depth_notes(url: str, answers: Answers) -> Iterator[Sentence]:
    yield from _sinks(answers["layers"].frame, url)
    spectra = answers[EIGENVALUES.name].frame
    known, on_corpora = {*spectra["run"]} if spectra.height else set(), corpora(answers)
    for run in answers["runs"].frame["run"] if spectra.height else ():
        if run in on_corpora and run not in known:
            yield (
                Run(run),
                ": its spectrum at final is not in the analysis cache: lpp-analyze profile.",
            )


def _doubts(answers: Answers, source: Origin) -> Iterator[Sentence]:
    if _unflagged(answers):
        yield ("No number of this database carries a flag.",)
    runs = answers["runs"].frame
    sets = runs.filter(pl.col("task").is_null())["prompt_set"].n_unique() if runs.width else 0
    if sets > 1:
        yield (
            "The runs read ",
            Ref(f"{sets} sets of texts", "runs"),
            ": profiles are compared only over the same prompts.",
        )
    yield from _set_aside(answers["runs"].frame)
    for run in source.runs:
        if run.problem:
            yield (Run(run.run), f": {run.problem}.")


def _unflagged(answers: Answers) -> bool:
    """Whether there are profiles and none of their numbers has a flag."""
    profiles = answers[whole("profiles").name].frame
    flagged = answers["flags"]
    known = flagged.fault is None and not profiles.is_empty()
    # `flags` counts those that are kept; `layers` computes the ones of spectra that are not
    return known and flagged.frame.is_empty() and not _any_flag(answers["layers"].frame)


def _any_flag(layers: pl.DataFrame) -> bool:
    """Whether any layer carries a flag."""
    return bool(layers.width and layers.select(pl.col("flags").list.len().sum() > 0).item())


def _sinks(layers: pl.DataFrame, url: str) -> Iterator[Sentence]:
    """What attention sinks do to a rank, where layers may have them."""
    if not _any_flag(layers):
        return
    yield (
        "Many models pay most of their attention to the first one or two tokens of a prompt, "
        "whatever they say: attention sinks (Xiao et al. 2023, arXiv 2309.17453). Activations at "
        "these positions can be a hundred times larger than anywhere else (Sun et al. 2024, arXiv "
        "2402.17762). A participation ratio weighs a direction by the square of its variance, so "
        "these few rows alone can bring it near 1, in most layers, however many dimensions all "
        "other tokens use. A collapsed layer says that much and no more. A second curve, without "
        "the first positions, shows the ranks of the other tokens",
        *(() if (layers["first_position"] > 0).any() else _second_curve(url)),
        ".",
    )


def _second_curve(url: str) -> Sentence:
    return "; ", Code(HOURGLASS.command.replace("STORE", shlex.quote(url))), " computes it"


def _set_aside(runs: pl.DataFrame) -> Iterator[Sentence]:
    """Sentences on runs that set prompts aside, and on where non-finite values begin."""
    for row in runs.iter_rows(named=True):
        if row["n_quarantined"]:
            site = row["not_finite_from"]
            where = f", with NaN or infinities from {site} on" if site else ""
            count = Ref(f"{row['n_quarantined']} of {row['n_prompts']} prompts", "runs")
            yield Run(row["run"]), ": ", count, f" are set aside{where}; no number is of them."
