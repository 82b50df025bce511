"""`lpp-analyze probe` as answers: probes of a run, and how they do on another one."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.gate.conditions import check_conditions, family, parse_condition
from lpp.analyze.drift.gate.verdicts import ALLOWED
from lpp.analyze.drift.gate.verdicts import verdict as gate_verdict
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.drift.tables import stores_of
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.numerics.probe_change import ChangeVerdict
from lpp.analyze.pages.reply import Reply, reply
from lpp.analyze.probes.against import probe_against
from lpp.analyze.probes.analysis import probe
from lpp.analyze.probes.direction import check_file, write_direction
from lpp.analyze.probes.mistakes import worst_predicted
from lpp.analyze.probes.page import against_page, probe_page
from lpp.analyze.probes.rows import ProbeComparison, write_probe_tests
from lpp.analyze.questions import GateSettings, LabelProbeSettings, ProbeTestSettings
from lpp.analyze.runs.incomplete import incomplete_lines
from lpp.analyze.runs.keys import Url
from lpp.analyze.tables.database import kept, put
from lpp.store.progress import Progress

FAILING: Final[dict[str, tuple[ChangeVerdict, ...]]] = {
    "degraded": ("SCORER DEGRADED", "NOT SERVING"),
    "stale": ("THRESHOLD STALE", "NOT SERVING"),
    "inconclusive": ("INCONCLUSIVE", "NOT SERVING"),
}
"""Verdicts for which each name of `--fail-if` fails."""


def probe_answer(
    store: Url,
    label: str,
    run: str | None,
    settings: LabelProbeSettings,
    *,
    direction: Path | None = None,
    progress: Progress,
) -> Reply:
    """Probes of a label; errors are those of `probe`. direction: file for that of the best site."""
    if direction is not None:
        check_file(direction)
    result = probe(store, label, run, settings, progress=progress)
    for line in incomplete_lines([result.view]):
        progress.warn(line)
    tables = result.frames()
    database = kept("The probes are", lambda: put(store, tables), progress)
    tables["probe_mistakes"] = worst_predicted(result)
    page = probe_page(f"{store}", tables, settings, result.view.run)
    if direction is not None:
        write_direction(result, direction)
        written = (f"The direction of {result.best.name} is in {direction}.",)
        page = replace(page, findings=(*page.findings, written))
    return reply(page, settings, stored=database)


def against_answer(
    store: Url,
    label: str,
    runs: tuple[str | None, str],
    *,
    settings: LabelProbeSettings,
    tests: ProbeTestSettings,
    gate: GateSettings,
    own_labels: bool,
    progress: Progress,
) -> Reply:
    """A probe on another run, and whether `gate` fails it; errors are those of `probe_against`, and
    InputError for a condition that no comparison of probes can meet.
    """
    named = {verdict for text in gate.conditions for verdict in FAILING.get(text, ())}
    conditions = [parse_condition(text) for text in gate.conditions if text not in FAILING]
    named_sites = [condition.site for condition in conditions if condition.site is not None]
    check_conditions(conditions, sites=named_sites or ["any"], of_probes=True)
    result = probe_against(
        store, label, runs, settings, tests, own_labels=own_labels, progress=progress
    )
    sites = _as_drift(result)
    check_conditions(conditions, sites=[site.site for site in sites], of_probes=True)
    verdicts = [
        gate_verdict(
            condition,
            {},
            sites,
            lost=result.lost,
            strict=gate.strict,
            allowed=ALLOWED if gate.allow_missing is None else gate.allow_missing,
            of=family(conditions, 1),
        )
        for condition in conditions
    ]
    for line in incomplete_lines([result.view, result.tested.view]):
        progress.warn(line)
    database = kept("The comparison is", lambda: write_probe_tests(result), progress)
    if len(stores_of(result.view, result.tested.view)) > 1:
        progress.warn("The runs lie in two stores: the comparison is in no database.")
    failing = result.best.verdict if result.best.verdict in named else ""
    both = result.view.run, result.tested.view.run
    page = against_page(
        f"{store}",
        result.tests_frame(),
        (settings, tests),
        both,
        verdicts=verdicts,
        failing=failing,
    )
    return reply(
        page,
        settings,
        stored=database,
        beside=f"{result.best.verdict}\n{gate_page.as_lines(verdicts)}",
        failed=bool(failing) or any(verdict.failed for verdict in verdicts),
    )


def _as_drift(result: ProbeComparison) -> list[SiteDrift]:
    """The sites as a gate takes them. It counts groups, of which an error has one more than degrees
    of freedom.
    """
    n_clusters = int(result.tested.target.clusters.max()) + 1
    depth_of, groups = result.view.run.plan.depth_of, (0.0,) * n_clusters
    return [
        SiteDrift(
            site=site.site,
            depth=depth_of(site.site),
            n_tokens=len(result.tested.prompts),
            numbers={
                "probe_auroc_change": Estimate(
                    site.change.auroc.value, site.change.auroc.stderr, groups=groups
                ),
                "probe_flagged_change": Estimate(
                    site.change.flagged.difference, site.change.flagged_stderr, groups=groups
                ),
            },
        )
        for site in result.sites
    ]
