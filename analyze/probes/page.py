"""Probes as pages, made of rows alone: of a label, the best site beside the best control, then
every site; of a test on another run, the verdict and its numbers.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.gate.verdicts import Verdict
from lpp.analyze.pages.page import Figure, Opening, Page, Section
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.pages.words import (
    Sentence,
    clause,
    code,
    ends,
    flag,
    hundredths,
    probability,
    ref,
    run,
    say,
    signed,
    with_interval,
)
from lpp.analyze.probes.page_parts import (
    CONTROLS,
    MISTAKES,
    PERFECT,
    READING,
    RELIABILITY,
    SITES,
    TESTS,
    TESTS_READING,
    Row,
    conclusion,
    number_of,
    probe_charts,
    shaped,
    tested,
)
from lpp.analyze.probes.tables import (
    COMPARISON_KEY,
    KEY,
    MEANING,
    PROBE_RELIABILITY,
    PROBE_TESTS,
    PROBES,
    Q,
    tells_more,
)
from lpp.analyze.questions import LabelProbeSettings, ProbeTestSettings
from lpp.analyze.runs.named import names_of
from lpp.store import Run
from lpp.store.settings.setting import as_python
from lpp.store.units import counted

_CONTROLS: Final = (
    "length: number of tokens of the prompt, and its square; for last rows, also the position. "
    "surprisal: mean -ln p of the tokens. tokens: how often each of the 1,000 most common tokens "
    "occurs. embed: token embeddings, before the first block."
)


def probe_page(
    store: str, tables: Mapping[str, pl.DataFrame], settings: LabelProbeSettings, of: Run
) -> Page:
    """The page of an analysis of the run `of`.

    store: its path as it was given. tables: of `ProbeAnalysis.frames`, and `probe_mistakes`.
    """
    probes, mistakes = tables[PROBES.name], tables["probe_mistakes"]
    best = probes.row(by_predicate=pl.col("is_best"), named=True)
    bins = tables[PROBE_RELIABILITY.name].filter(probe=best["probe"])
    call = (
        "from lpp.analyze import LabelProbeSettings, probe\n"
        "from lpp.analyze.probes.mistakes import worst_predicted\n\n"
        f"found = probe({store!r}, {best['label']!r}, {of.id!r}, {as_python(settings)})\n"
    )

    def table(shape: Shape, frame: pl.DataFrame, rows: str) -> Table:
        return shaped(shape, frame.drop(KEY, strict=False), code=f"{call}{rows}", folded=False)

    of_bins = f"found.reliability_frame().filter(probe={best['probe']!r})"
    sites, controls = (
        table(shape, probes.filter(role=role), f"found.probes_frame().filter(role={role!r})")
        for shape, role in ((SITES, "site"), (CONTROLS, "control"))
    )
    reliability = table(RELIABILITY, bins, of_bins)
    wrong = table(MISTAKES, mistakes, "worst_predicted(found)")
    runs = RunStyles({of.id: of.name})
    drawn = {PROBES.name: probes, PROBE_RELIABILITY.name: bins}
    depth, *diagram = probe_charts(drawn, {one.name: one for one in (sites, reliability)}, runs)
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
            notes=tuple(map(say, _calibration(best))),
            more=_calibration_reading(best),
        ),
        Section(
            "mistakes",
            "The most confident mistakes",
            tables=(wrong,) if mistakes.height else (),
            notes=() if mistakes.height else (("No prompt is on the wrong side.",),),
        ),
    ]
    if best["probe_ece"] is None:  # of a number there are no probabilities
        del sections[1]
    return Page(
        title="Probes",
        about=say(f"{code(best['label'])} from rows of {run(of.id)}"),
        opening=_opening(probes, best),
        findings=tuple(map(say, _findings(probes, best))),
        sections=tuple(sections),
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(store)} --run probes",),
        data=tables,
        store=store,
        origin=origin_of([of]),
    )


def _calibration(best: Row) -> Iterator[str]:
    """How well the best site's probabilities are calibrated, and its recall."""
    if best["probe_ece"] is None:
        return
    most = best["ece_by_chance"]
    beyond = "more" if best["probe_ece"] > most else "no more"
    yield (
        f"The probabilities at {best['probe']} are off by "
        f"{ref(_with_ends(best, 'probe_ece'), RELIABILITY.name)} on average (expected calibration "
        f"error): {beyond} than the {hundredths(most)} that a calibrated probe reaches by chance "
        f"with as many {best['examples']}."
    )
    first, second = _classes(best)
    if best["probe_recall"] is None:
        yield f"Too few {best['examples']} for a recall at 1 % false alarms: it needs 100 {first}."
    else:
        found = ref(_with_ends(best, "probe_recall"), SITES.name)
        yield f"At 1 % false alarms the probe finds {found} of the {best['examples']} {second}."


def _with_ends(row: Row, name: str) -> str:
    return with_interval(row[name], row[f"{name}_ci_low"], row[f"{name}_ci_high"])


def _classes(row: Row) -> tuple[str, str]:
    """`of` the first and `of` the second class, in words."""
    if row["n_second"] is None:
        return "of the other classes", "of a class"
    return f"of {row['classes'][0]}", f"of {row['classes'][1]}"


def _calibration_reading(best: Row) -> str:
    """How to read the bins."""
    if best["n_second"] is None:
        return (
            f"Each bin holds equally many pairs of {best['examples']} and classes, ordered by the "
            "probability of the class, out of fold; accuracy: the share that is of the class."
        )
    second = _classes(best)[1]
    return (
        f"Each bin holds equally many {best['examples']}, ordered by the probability {second}, out "
        f"of fold; accuracy: the share that is {second}."
    )


def _opening(probes: pl.DataFrame, best: Row) -> Opening:
    """The best site, the best control and the gain."""
    name, unit = number_of(best)
    head, row, of_gain = [(best["probe"], unit)], [_figure(best, name)], ""
    if best["probe_gain"] is not None:
        control = probes.row(by_predicate=pl.col("probe") == best["control"], named=True)
        gains = probes.filter(role="site")["probe_gain"].count()
        of_gain = f"; q: p-value of the gain, corrected for {counted(gains, 'site')}"
        head += [(control["probe"], f"{unit}, control")]
        head += [("gain", f"q {probability(best['q_value'])}")]
        row += [_figure(control, name), _figure(best, "probe_gain", signed)]
    grouped = f", each {best['group_field']} in one fold" if best["group_field"] else ""
    independent = (
        f"errors over {best['n_clusters']:,} clusters by {best['errors_by']}"
        if best["errors_by"]
        else f"{best['examples']} taken as independent"
    )
    counts = f"{best['n_prompts']:,} {best['examples']}"
    if (n_second := best["n_second"]) is not None:  # the class that a score is of comes first
        first, second = _classes(best)
        counts += f" ({n_second:,} {second}, {best['n_prompts'] - n_second:,} {first})"
    return Opening(
        say(conclusion(probes)),
        f"{counts}, rows: {best['rows']}, {best['folds']} folds{grouped}, {independent}{of_gain}",
        tuple(head),
        (tuple(row),),
        _warnings(best),
    )


def _warnings(row: Row) -> tuple[Sentence, ...]:
    """A line for each flag of all probes of an analysis."""
    flags = (flag for flag in row["flags"] if flag not in ("explained", "lossy"))
    return tuple(say(f"{flag(name)}: {clause(MEANING[name])}.") for name in flags)


def _figure(row: Row, name: str, write: Any = hundredths) -> Figure:
    low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
    return Figure(write(row[name]), ends(low, high, write) or "no interval")


def _findings(probes: pl.DataFrame, best: Row) -> Iterator[str]:
    rows = probes.filter(role="site").to_dicts()
    if any(row["probe_gain"] is not None for row in rows):
        beyond = sum(tells_more(row["probe_gain"], row["q_value"]) for row in rows)
        counts = ref(f"{beyond} of {len(rows)} sites", SITES.name)
        yield f"At {counts} the probe is better than the best control (q below {Q})."
    if best["classes"] and any(row["probe_auroc_ci_low"] is None for row in rows):
        yield PERFECT
    yield from best["notes"]


# a test on another run

_VERDICTS: Final = "SELECT label, probe, verdict, tested_auroc FROM probe_tests"
"""Columns of every test that fit a terminal."""


def against_page(
    store: str,
    tests: pl.DataFrame,
    asked: tuple[LabelProbeSettings, ProbeTestSettings],
    both: tuple[Run, Run],
    *,
    verdicts: Sequence[Verdict] = (),
    failing: str = "",
) -> Page:
    """The page of a comparison of the runs `both`.

    store: its path as it was given. tests: rows of `probe_tests`. verdicts: of a gate. failing: the
    verdict that --fail-if names and that came; empty: none.
    """
    a, b = both
    best = tests.row(by_predicate=pl.col("is_best"), named=True)
    settings = ", ".join(map(as_python, asked))
    named = f"{best['label']!r}, {(a.id, f'{b.directory.root}::{b.id}')!r}, {settings}"
    call = (
        "from lpp.analyze import LabelProbeSettings, ProbeTestSettings, probe_against\n\n"
        f"found = probe_against({store!r}, {named}, own_labels={bool(best['label_b'])})"
    )
    table = shaped(TESTS, tests.drop(COMPARISON_KEY), code=f"{call}\nfound.tests_frame()")
    sections = [Section("tests", "Sites", tables=(table,), more=TESTS_READING)]
    failed = f"FAIL: the verdict is {failing}. " if failing else ""
    if verdicts:
        section = gate_page.gate_section({b.id: verdicts})
        (rows,) = section.tables
        sections.insert(0, replace(section, tables=(replace(rows, code=call),)))
        if not failing or any(one.failed for one in verdicts):
            failed += gate_page.conclusion({b.id: verdicts})
    return Page(
        title="A probe on another run",
        about=say(f"{code(best['label'])} in {run(a.id)} and {run(b.id)}"),
        opening=_test_opening(best, failed),
        findings=tuple(map(say, _test_findings(best))),
        sections=tuple(sections),
        meanings=MEANING,
        runs=RunStyles(names_of(both)),
        next=(f'lpp-sql {shlex.quote(store)} "{_VERDICTS}"',),
        data={PROBE_TESTS.name: tests, "gate": gate_page.gate_rows({b.id: verdicts})},
        store=store,
        origin=origin_of([a] if a.id == b.id else [a, b]),
    )


def _test_opening(best: Row, failed: str) -> Opening:
    field = best["cluster_field"] or best["group_field"]
    independent = f"errors over clusters by {field}" if field else "prompts taken as independent"
    return Opening(
        say(failed + tested(best)),
        f"{best['n_prompts']:,} prompts, rows: {best['rows']}, margin {best['margin']:g}, "
        f"{independent}",
        (("A", "AUROC"), ("B", "AUROC"), ("change", "AUROC"), ("flagged", "B - reference")),
        (
            (
                _figure(best, "probe_auroc"),
                _figure(best, "tested_auroc"),
                _figure(best, "probe_auroc_change", signed),
                _figure(best, "probe_flagged_change", signed),
            ),
        ),
        _warnings(best),
    )


def _test_findings(best: Row) -> Iterator[str]:
    if best["auroc_floor"] is not None:
        auroc, flagged = (hundredths(best[f"{name}_floor"]) for name in ("auroc", "flagged"))
        yield f"A rerun changes the AUROC by up to {auroc} and the share by up to {flagged}."
    elif not best["label_b"]:
        yield "Changes are not compared with a rerun of A: name one with --rerun."
    yield from best["notes"]
