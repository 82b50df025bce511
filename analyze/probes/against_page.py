"""A test of a probe on another run as a page: the verdict, its numbers, every site."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.gate.verdicts import Verdict
from lpp.analyze.numerics.probe_change import floors
from lpp.analyze.pages.page import Figure, Opening, Page, Section
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.words import (
    Code,
    Flag,
    Run,
    Sentence,
    clause,
    hundredths,
    signed,
)
from lpp.analyze.probes.against import ProbeComparison
from lpp.analyze.probes.against_tables import COMPARISON_KEY, tests_frame
from lpp.analyze.probes.page_parts import TESTS, TESTS_READING, shaped, tested
from lpp.analyze.probes.tables import MEANING, probe_flags
from lpp.store.format.run_names import run_names
from lpp.store.settings.setting import as_python


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
    code = _call(store, comparison)
    table = shaped(TESTS, frame.drop(COMPARISON_KEY), code=f"{code}\ntests_frame(found)")
    sections = [Section("tests", "Sites", tables=(table,), more=TESTS_READING)]
    failed: Sentence = (f"FAIL: the verdict is {failing}. ",) if failing else ()
    if verdicts:
        decided = {views[1].run.id: verdicts}
        section = gate_page.gate_section(decided)
        (rows,) = section.tables
        sections.insert(0, replace(section, tables=(replace(rows, code=code),)))
        if not failing or any(one.failed for one in verdicts):
            failed += gate_page.conclusion(decided)
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
        opening=_opening(comparison, frame, failed),
        findings=tuple(_findings(comparison)),
        sections=tuple(sections),
        meanings=MEANING,
        runs=RunStyles(run_names({name: run.plan for name, run in runs.items()})),
        next=(f'lpp-sql {shlex.quote(store)} "FROM probe_tests"',),
        document={
            "verdict": comparison.best.verdict,
            "sites": frame.to_dicts(),
            "gate": gate_page.documents(verdicts),
        },
        csv=frame,
        store=store,
        origin=origin_of([*runs.values()]),
    )


def _opening(comparison: ProbeComparison, frame: pl.DataFrame, failed: Sentence) -> Opening:
    best, settings, labels = comparison.best, comparison.settings, comparison.labels
    change, tests = best.change, comparison.tests
    figures = (
        Figure(hundredths(best.number.value), _ends(best.number.interval)),
        Figure(hundredths(best.tested.value), _ends(best.tested.interval)),
        Figure(signed(change.auroc.value), _ends(change.auroc.interval, sign=True)),
        Figure(signed(change.flagged.difference), _ends(change.flagged.interval, sign=True)),
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
        tuple((Flag(f), f": {clause(MEANING[f])}.") for f in probe_flags(labels, settings)),
    )


def _findings(comparison: ProbeComparison) -> list[Sentence]:
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


def _ends(ends: tuple[float, float] | None, *, sign: bool = False) -> str:
    style = signed if sign else hundredths
    return "" if ends is None else f"[{style(ends[0])}, {style(ends[1])}]"


def _call(store: str, comparison: ProbeComparison) -> str:
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
