"""Tests of a probe on another run, as a table of the database of their store."""

from typing import Any, Final, get_args

import polars as pl

from lpp.analyze.drift.tables import stores_of
from lpp.analyze.numerics.probe_change import ChangeVerdict, floors
from lpp.analyze.probes.against import ProbeComparison, SiteTest
from lpp.analyze.probes.tables import ANALYSIS, KEY, analysis_key, probe_flags
from lpp.analyze.quantities.probes import PROBE_CHANGES, PROBE_NUMBERS
from lpp.analyze.quantities.tables import columns_of, frame_schema, interval_columns, shared
from lpp.analyze.tables.database import put
from lpp.sql.schema.columns import INTERVAL, Column, Merging, Table, number_columns
from lpp.store.objects.place import Place

COMPARISON_KEY: Final = (*KEY, "run_b", "label_b")
"""Columns that identify a comparison."""

PROBE_TESTS: Final = Table(
    "probe_tests",
    "whether the probe of a site of one run serves on the rows of another",
    "lpp-analyze probe STORE --label FIELD --against RUN",
    (*COMPARISON_KEY, "probe", "site_b"),
    (
        *ANALYSIS,
        *shared("run_b"),
        Column("label_b", "VARCHAR", "label of run B; empty: --against, labels of run"),
        Column("probe", "VARCHAR", "site of run whose rows the probe is fitted to"),
        Column("site_b", "VARCHAR", "site of run B whose rows it scores"),
        *shared("depth"),
        Column("is_best", "BOOLEAN", "site whose verdict is that of the comparison"),
        Column("verdict", "VARCHAR", ", ".join(get_args(ChangeVerdict))),
        Column("n_prompts", "INTEGER", "prompts that are tested", "prompts"),
        *columns_of(PROBE_NUMBERS["probe_auroc"], INTERVAL, meaning="of the probe on run"),
        *number_columns("tested_auroc", "of the probe on run B", "probability", INTERVAL),
        *columns_of(PROBE_CHANGES["probe_auroc_change"], INTERVAL),
        *number_columns("reference_flagged", "share above the threshold, reference", "share"),
        *number_columns("flagged", "share above the threshold, probe on run B", "share"),
        *columns_of(PROBE_CHANGES["probe_flagged_change"], INTERVAL),
        *number_columns("flagged_p_value", "of equal shares: McNemar, by cluster", "probability"),
        *number_columns("reference_false_alarms", "of the first class, reference", "share"),
        *number_columns("false_alarms", "of the first class above the threshold, run B", "share"),
        *number_columns("reference_recall", "of the second class, reference", "share"),
        *number_columns("recall", "of the second class above the threshold, run B", "share"),
        *number_columns("margin", "size of a change that does not matter", "1"),
        *number_columns("auroc_floor", "how far a rerun moves the AUROC; null: no rerun", "1"),
        *number_columns("flagged_floor", "how far a rerun moves the share; null: no rerun", "1"),
        *shared("flags"),
    ),
    merging=Merging(replaced=COMPARISON_KEY),
)


def tests_frame(comparison: ProbeComparison) -> pl.DataFrame:
    """Table `probe_tests`: sites by depth."""
    labels, settings = comparison.labels, comparison.settings
    key = {
        **analysis_key(comparison.view, labels, settings),
        "run_b": comparison.tested.view.run.id,
        "label_b": (comparison.tests.test_label or labels.name) if comparison.tested.own else "",
        "n_prompts": len(comparison.tested.prompts),
        "margin": comparison.tests.margin,
        "flags": sorted(probe_flags(labels, settings)),
    }
    depth = comparison.view.run.plan.depth_of
    rows = [
        key | {"depth": depth(site.site), "is_best": site is comparison.best} | _row(site)
        for site in comparison.sites
    ]
    return pl.DataFrame(rows, schema=frame_schema(PROBE_TESTS.columns))


def write_probe_tests(comparison: ProbeComparison) -> Place | None:
    """Write `tests_frame` to the database of the store of both runs; return the file's path. None
    if the runs are in two stores: then nothing is written.
    """
    roots = stores_of(comparison.view, comparison.tested.view)
    return None if len(roots) > 1 else put(roots[0], {PROBE_TESTS.name: tests_frame(comparison)})


def _row(site: SiteTest) -> dict[str, Any]:
    change = site.change
    floor = (None, None) if site.rerun is None else floors(site.rerun)
    return {
        **interval_columns("probe_auroc", site.number.interval),
        **interval_columns("tested_auroc", site.tested.interval),
        **interval_columns("probe_auroc_change", change.auroc.interval),
        **interval_columns("probe_flagged_change", change.flagged.interval),
        **{"probe": site.site, "site_b": site.site_b, "verdict": site.verdict},
        "probe_auroc": site.number.value,
        "tested_auroc": site.tested.value,
        "probe_auroc_change": change.auroc.value,
        "reference_flagged": change.flagged.first,
        "flagged": change.flagged.second,
        "probe_flagged_change": change.flagged.difference,
        "flagged_p_value": change.flagged.p_value,
        **{f"reference_{name}": rate for name, rate in change.reference._asdict().items()},
        **change.probe._asdict(),
        **dict(zip(("auroc_floor", "flagged_floor"), floor, strict=True)),
    }
