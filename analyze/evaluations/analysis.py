"""How well each feature of an item tells whether the model's answer is right."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.features import declared_features, item_features
from lpp.analyze.evaluations.measure import (
    FEWEST_ITEMS,
    FEWEST_OF_A_KIND,
    FeatureValues,
    Measure,
    enough,
    feature_columns,
    groups_of,
    with_q,
)
from lpp.analyze.evaluations.site_features import site_features
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
from lpp.analyze.quantities.tables import frame_schema
from lpp.analyze.questions import ItemsSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.select import matching
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.run_names import plan_name
from lpp.store.progress import SILENT, Progress

KINDS: Final = ("n_right", "n_wrong")

FEATURE_COLUMNS: Final = feature_columns(KINDS)
"""A row for each feature, and for features of rows also for each site. The AUROC is of right
items against wrong ones; the covariates are `COVARIATES`; q_value is over all rows except those of
the gold answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAnalysis:
    """The analysis of one evaluated task: what distinguishes right from wrong answers."""

    task: str
    run: str
    name: str
    """Short name of the run."""
    source: str
    model: str
    filter: str
    """The filter of lm-eval, as in `EvaluatedItems`."""
    n_right: int
    n_wrong: int
    n_groups: int
    """Number of groups; 0: the items have none."""
    n_within: int
    """Items that are compared within groups: those of groups with right items in two clusters or
    more, and wrong ones. 0 if the items have no groups, or if there are too few such items for a
    ranking."""
    left_out: Mapping[str, int]
    """Numbers of items that are left out, by reason."""
    cluster: str | None
    """Field whose equal values make a cluster, by which every number is; None: items are taken as
    independent."""
    n_clusters: int
    """Number of clusters; 0: items are taken as independent."""
    even_clusters: float
    """Number of clusters, fewer the more their sizes differ: (sum of sizes)^2 / sum of their
    squares; 0: items are taken as independent."""
    uncut: bool
    """Whether answers include what the model wrote after the stop string (`EvaluatedItems`)."""
    accuracy_interval: tuple[float, float]
    """95 %, of the share of right items."""
    settings: ItemsSettings
    """Those that ask the same again, with source, filter and cluster."""
    features: pl.DataFrame
    """`FEATURE_COLUMNS`: baselines first, then in the order of `FEATURES`; sites by depth."""
    confidence: str
    """The feature by which `risk` orders the items."""
    calibration: Calibration | None
    """Calibration of chosen_share; None if items have one answer."""
    risk: RiskCoverage
    lossy: bool
    """Whether some features come from rows that were rounded as they were stored."""


def items(
    store: Url,
    task: str,
    run: str | None = None,
    settings: ItemsSettings = ItemsSettings(),
) -> ItemAnalysis:
    """AUROC of every feature of the items of `task`, calibration, and risk against coverage.

    run: as in `evaluated_items`. Raises InputError and FormatError as that and `analysis` do.
    """
    return analysis(evaluated_items(store, task, run, settings), settings)


def analysis(
    items: EvaluatedItems,
    settings: ItemsSettings = ItemsSettings(),
    *,
    progress: Progress = SILENT,
) -> ItemAnalysis:
    """The analysis of these items.

    progress: advances by one, and by one for each
    site.

    Raises InputError for a site that the run lacks, and if there are fewer than 50 items, or fewer
    than 10 right or wrong ones: too few for a ranking. Raises FormatError for altered bytes.
    """
    skip_first, seed = settings.skip_first, settings.seed
    right = items.table["right"].to_numpy()
    _check_enough(items, right)
    run = items.view.run
    sites = matching("site", settings.sites, run.activation_sites, option="--sites")
    progress.expect(1 + len(sites))
    values = item_features(items, first_position=skip_first)
    progress.advance()
    declared = declared_features(items)
    clusters = items.clusters
    groups = groups_of(items.table["item_group"], right, clusters)
    covariates = {name: values[name] for name in COVARIATES if declared[name].role != "gold"}
    measure = Measure(
        labels=right,
        groups=groups.codes,
        clusters=clusters,
        baselines=[values[f.name] for f in declared.values() if f.role == "baseline"],
        covariates=covariates,
        without_partial=WITHOUT_PARTIAL,
        kinds=KINDS,
        seed=seed,
    )
    features = (
        *(FeatureValues(name, None, of_item) for name, of_item in values.items()),
        *site_features(items, sites, first_position=skip_first, seed=seed, progress=progress),
    )
    plan = items.view.run.plan
    rows = [measure.row_of(declared[f.feature], f, plan) for f in features]
    calibrated, confidence, risk = _confidence(items, values, right, seed)
    return ItemAnalysis(
        task=items.task,
        run=items.view.run.id,
        name=plan_name(items.view.run.plan),
        source=items.source,
        model=items.model,
        filter=items.filter,
        n_right=int(right.sum()),
        n_wrong=int((~right).sum()),
        n_groups=groups.count,
        n_within=groups.n_within,
        left_out=items.left_out,
        cluster=items.cluster,
        n_clusters=items.n_clusters,
        even_clusters=0.0 if clusters is None else even_clusters(clusters),
        uncut=items.uncut,
        accuracy_interval=accuracy_interval(
            right, np.arange(len(right)) if clusters is None else clusters
        ),
        settings=replace(settings, source=items.source, filter=items.filter, cluster=items.cluster),
        features=with_q(
            pl.DataFrame(rows, schema=frame_schema(FEATURE_COLUMNS), orient="row"),
            list(declared),
            groups,
        ),
        confidence=confidence,
        calibration=calibrated,
        risk=risk,
        lossy=any(map(plan.is_lossy, sites)),
    )


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
