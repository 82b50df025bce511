"""How well each feature of an item tells two kinds of items apart: the right items of a run from
the wrong ones, or those that flip between two runs from those that stay.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.features import declared_features
from lpp.analyze.evaluations.measure import enough, ranked
from lpp.analyze.evaluations.mistakes import confident_mistakes
from lpp.analyze.evaluations.site_features import features_of_run
from lpp.analyze.evaluations.tables import (
    FEW_CLUSTERS,
    FEW_OF_A_KIND,
    FEWEST_ITEMS,
    FEWEST_OF_A_KIND,
    ITEM_ANALYSES,
    ITEM_FEATURES,
    ITEM_RELIABILITY,
    ITEM_RISK,
    KINDS,
    ItemAnalysis,
)
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Flags
from lpp.analyze.numerics.statistics.calibration import (
    Calibration,
    RiskCoverage,
    accuracy_interval,
    calibration,
    risk_coverage,
)
from lpp.analyze.numerics.statistics.clusters import even_clusters, recoded
from lpp.analyze.quantities.items import COVARIATES, WITHOUT_PARTIAL
from lpp.analyze.quantities.tables import estimated, frame_schema
from lpp.analyze.questions import ItemsSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.select import matching
from lpp.analyze.tables.database import put
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import Place
from lpp.store.progress import SILENT, Progress

KEPT: Final = tuple(
    table.name for table in (ITEM_ANALYSES, ITEM_FEATURES, ITEM_RELIABILITY, ITEM_RISK)
)
"""Tables of the database that an analysis of one run fills."""


def items(
    store: Url,
    task: str,
    run: str | None = None,
    settings: ItemsSettings = ItemsSettings(),
) -> ItemAnalysis:
    """AUROC of every feature of the items of `task`, calibration, and risk against coverage.

    run: as in `evaluated_items`. Raises InputError and FormatError as that and `analysis` do.
    """
    return analysis(evaluated_items(store, task, run, settings))


def analysis(items: EvaluatedItems, *, progress: Progress = SILENT) -> ItemAnalysis:
    """The analysis of the items of one run.

    progress: advances by one, and by one for each site.

    Raises InputError for a site that the run lacks, and if there are fewer than 50 items, or fewer
    than 10 right or wrong ones: too few for a ranking. Raises FormatError for altered bytes.
    """
    right, settings, run = items.table["right"].to_numpy(), items.settings, items.view.run
    _check_enough(items, right)
    sites = matching("site", settings.sites, run.activation_sites, option="--sites")
    progress.expect(1 + len(sites))
    declared = declared_features(items)
    values = list(features_of_run(items, sites, progress))
    of_item = {value.feature: value.numbers for value in values if value.site is None}
    covariates = [name for name in COVARIATES if declared[name].role != "gold"]
    features, groups = ranked(
        items,
        right,
        values,
        declared=declared,
        covariates=covariates,
        without_partial=WITHOUT_PARTIAL,
        kinds=KINDS,
    )
    calibrated, risk_by, risk = _confidence(items, of_item, right, settings.seed)
    clusters, n_right = items.clusters, int(right.sum())
    codes = np.arange(len(right)) if clusters is None else clusters
    row: dict[str, Any] = {
        "skip_first": settings.skip_first,
        "n_right": n_right,
        "n_wrong": len(right) - n_right,
        **estimated("accuracy", n_right / len(right), accuracy_interval(right, codes)),
        "n_left_out": sum(items.left_out.values()),
        "notes": [f"{n:,} items are left out: {why}." for why, n in items.left_out.items()],
        "n_groups": groups.count,
        "n_within": groups.n_within,
        "cluster": settings.cluster or "",
        "n_clusters": items.n_clusters,
        "risk_by": risk_by,
        "risk_area": risk.area,
        "risk_best": risk.best,
    }
    if calibrated is not None:
        mean, most = calibrated.calibrated
        row |= estimated("ece", calibrated.ece, calibrated.interval)
        row |= {"ece_calibrated": mean, "ece_by_chance": most}
    row["flags"] = list(
        item_flags(
            row,
            even_clusters=0.0 if clusters is None else even_clusters(clusters),
            lossy=any(map(run.plan.is_lossy, sites)),
            uncut=items.uncut,
        )
    )
    of_all = risk.curve[-1][0]
    rows = {
        ITEM_ANALYSES: [row],
        ITEM_FEATURES: features.to_dicts(),
        ITEM_RELIABILITY: [] if calibrated is None else reliability_rows(calibrated),
        ITEM_RISK: [
            {"n_answered": answered, "coverage": answered / of_all, "risk": share}
            for answered, share in risk.curve
        ],
    }
    asked = {name: getattr(settings, name) for name in ("source", "filter", "skip_first", "seed")}
    key = {**asked, "task": items.task, "run": run.id}
    tables = {
        table.name: pl.DataFrame([key | one for one in part], schema=frame_schema(table.columns))
        for table, part in rows.items()
    }
    tables["item_mistakes"] = confident_mistakes(items)
    return ItemAnalysis(views=(items.view,), settings=settings, tables=tables)


def reliability_rows(calibrated: Calibration) -> list[dict[str, Any]]:
    """Bins, as in `item_reliability`."""
    return [
        {"bin": k, "n": b.n, "confidence": b.confidence}
        | estimated("accuracy", b.accuracy, b.interval)
        for k, b in enumerate(calibrated.reliability)
    ]


def write_items(store: Url, analysis: ItemAnalysis) -> Place:
    """Write the tables of an analysis of one run to the database of `store`; return the file's
    path.

    They replace all rows of an earlier analysis of the same task, run and settings, because q is
    over all of its features. Other analyses stay while their run and their items are unchanged.
    Raises what `lpp.sql.build` raises.
    """
    return put(store, {name: analysis.tables[name] for name in KEPT})


def item_flags(
    row: Mapping[str, Any], *, even_clusters: float, lossy: bool, uncut: bool
) -> Iterator[str]:
    """Flags of an analysis, of `tables.MEANING`.

    row: of `item_analyses`. even_clusters: number of clusters, fewer the more their sizes differ;
    0: items are taken as independent. lossy: whether some features come from rows that were rounded
    as they were stored. uncut: as of `EvaluatedItems`.
    """
    if min(row["n_right"], row["n_wrong"]) < FEW_OF_A_KIND:
        yield "few_items"
    if 0 < even_clusters < FEW_CLUSTERS:
        yield "few_clusters"
    if not row["skip_first"]:
        yield "first_positions"
    if not row["cluster"]:
        yield "independent_items"
    if row["n_left_out"]:
        yield "items_left_out"
    if lossy:
        yield "lossy"
    if not row["n_groups"]:
        yield "no_groups"
    elif not row["n_within"]:
        yield "small_groups"
    if uncut:
        yield "uncut_answers"


def _check_enough(items: EvaluatedItems, right: Flags) -> None:
    n, n_right = len(right), int(right.sum())
    if enough(right):
        return
    out = "".join(f", {count} left out ({why})" for why, count in items.left_out.items())
    raise InputError(
        f"not ranked: --task {items.task} has {n} items, {n_right} right and {n - n_right} "
        f"wrong{out}. It takes {FEWEST_ITEMS} items, and {FEWEST_OF_A_KIND} of each "
        "kind: of fewer, chance alone gives an AUROC of 0.3 or 0.7. Evaluate more items "
        "(lpp-capture eval without --limit), or an easier or harder task.",
        kind=ErrorKind.INCOMPLETE,
    )


def _confidence(
    items: EvaluatedItems, values: Mapping[str, Floats], right: Flags, seed: int
) -> tuple[Calibration | None, str, RiskCoverage]:
    """Calibration of the chosen answer's share, and risk by it. If it has none, risk by its ln p,
    or, where that is of the gold answer, by the margin of the next token.
    """
    share = values["chosen_share"]
    there = np.isfinite(share)
    if there.any():
        shares, labels = share[there], right[there]
        codes = None if items.clusters is None else recoded(items.clusters[there])
        calibrated = calibration(shares, labels, codes, seed=seed)
        return calibrated, "chosen_share", risk_coverage(shares, labels)
    name = "answer_margin" if items.asks_for_gold else "chosen_logprob_token"
    if not np.isfinite(values[name]).any():
        return None, "chosen_logprob", risk_coverage(values["chosen_logprob"], right)
    there = np.isfinite(values[name])
    return None, name, risk_coverage(values[name][there], right[there])
