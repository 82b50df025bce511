"""How well each of many features distinguishes items of two kinds, with controls."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.tables import FEWEST_ITEMS, FEWEST_OF_A_KIND, feature_columns
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.association import benjamini_hochberg
from lpp.analyze.numerics.statistics.auroc import (
    FEWEST_OF_A_GROUP,
    Codes,
    Flags,
    auroc,
    gain,
    residual_ranks,
    shuffled,
    tied_share,
)
from lpp.analyze.quantities.items import Feature
from lpp.analyze.quantities.tables import estimated, frame_schema
from lpp.store.format.plan import Plan

MOST_TIES: Final = 0.1
"""Share of pairs with equal values, beyond which a feature has no partial AUROC (`tied_share`)."""


def enough(labels: Flags) -> bool:
    """Whether items with these labels are ranked: 50 of them, 10 of each kind."""
    n, n_true = len(labels), int(labels.sum())
    return n >= FEWEST_ITEMS and FEWEST_OF_A_KIND <= n_true <= n - FEWEST_OF_A_KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups of some items, and whether items are compared within them."""

    count: int
    """Number of groups; 0: the items have none."""
    n_within: int
    """Items of groups with two or more clusters of each kind. 0: items are not compared within
    groups, because they have none or because there are too few such items for a ranking."""
    codes: Codes | None
    """(n,) group number of each item, if items are compared within groups."""


def groups_of(column: pl.Series, labels: Flags, clusters: Codes | None = None) -> Groups:
    """The groups that `column` names, (n,); items without one are a group of their own. clusters:
    (n,), by default each item is one of its own.
    """
    if column.is_null().all():
        return Groups(count=0, n_within=0, codes=None)
    codes: Codes = np.unique(column.fill_null("").to_numpy(), return_inverse=True)[1]
    n_true, n_false = np.bincount(codes, labels), np.bincount(codes, ~labels)
    of_items = np.arange(len(codes)) if clusters is None else clusters
    apart = [np.unique([codes[kind], of_items[kind]], axis=1)[0] for kind in (labels, ~labels)]
    count = len(n_true)
    many = np.minimum(*(np.bincount(kind, minlength=count) for kind in apart)) >= FEWEST_OF_A_GROUP
    of_true, of_false = int(n_true[many].sum()), int(n_false[many].sum())
    few = of_true + of_false < FEWEST_ITEMS or min(of_true, of_false) < FEWEST_OF_A_KIND
    return Groups(
        count=len(np.unique(codes)),
        n_within=0 if few else of_true + of_false,
        codes=None if few else codes,
    )


class FeatureValues(NamedTuple):
    """A feature of some items."""

    feature: str
    """Name of the feature."""
    site: str | None
    """The site of a feature of rows."""
    numbers: Floats
    """(n,) NaN: no number."""
    why_none: str | None = None
    """Why there are no numbers, if a reason is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The labels and controls for every feature."""

    labels: Flags
    """(n,) whether an item is of the kind that the AUROC is of."""
    groups: Codes | None
    clusters: Codes | None
    """(n,) which items are not independent of each other; None: all are."""
    baselines: Sequence[Floats]
    """(n,) values of each baseline."""
    covariates: Mapping[str, Floats]
    """Features, (n,) each, whose effect is removed for `partial_`; without any there is none."""
    without_partial: Collection[str]
    """Functions of the covariates: their residuals are only the error of the regression's fit."""
    kinds: tuple[str, str]
    """Columns that count the items of that kind and the others."""
    seed: int

    def row_of(self, feature: Feature, of: FeatureValues, plan: Plan) -> dict[str, Any]:
        """A row of `feature_columns` for numbers of `feature`, without q."""
        values, site, why_none = of.numbers, of.site, of.why_none
        others = np.stack(list(self.covariates.values()) or [np.zeros(len(values))], axis=1)
        defined = np.isfinite(values) & np.isfinite(others).all(axis=1)
        present, labels = values[defined], self.labels[defined]
        row: dict[str, Any] = dict.fromkeys(column.name for column in feature_columns(self.kinds))
        row |= {"feature": feature.name, "role": feature.role, "unit": feature.unit}
        row |= {"site": site or "", "depth": None if site is None else plan.depth_of(site)}
        kind, other = self.kinds
        row |= {kind: int(labels.sum()), other: int((~labels).sum())}
        if not defined.any():
            row["why_none"] = "not defined for any item"
        elif not enough(labels):
            row["why_none"] = "defined for too few items"
        elif np.ptp(present) == 0:
            row["why_none"] = "the same for every item"
        else:
            codes, clusters = self._codes(defined)
            row |= _numbers("", present, labels, (None, clusters), self.seed)
            if row["auroc"] is None:
                row["why_none"] = "right, or wrong, in too few clusters"
            if codes is not None:
                row |= _numbers("within_", present, labels, (codes, clusters), self.seed)
            rest = residual_ranks(present, others[defined], codes) if self.covariates else None
            of_covariates = feature.name in self.without_partial
            if not of_covariates and tied_share(present, labels) <= MOST_TIES and rest is not None:
                row |= _numbers("partial_", rest, labels, (codes, clusters), self.seed)
            if feature.role not in ("baseline", "gold"):
                row |= self._gain(values, defined)
        return row if why_none is None else row | {"why_none": why_none}

    def _gain(self, values: Floats, defined: Flags) -> dict[str, Any]:
        """How much farther from 0.5 than the best baseline, which is best on the items that the
        feature and all baselines have; empty if no baseline varies.
        """
        best, reached = None, -1.0
        baselines = [b for b in self.baselines if np.isfinite(b[defined]).any()]
        of_all = defined & np.isfinite(np.stack([*baselines, values])).all(axis=0)
        for baseline in baselines:
            result = auroc(baseline[of_all], self.labels[of_all], *self._codes(of_all))
            if result is not None and abs(result.value - 0.5) > reached:
                best, reached = baseline, abs(result.value - 0.5)
        if best is None:
            return {}
        both = defined & np.isfinite(best)
        more = gain(values[both], best[both], self.labels[both], *self._codes(both))
        if more is None:
            return {}
        return {**estimated("gain", more.value, more.interval), "gain_p_value": more.p_value}

    def _codes(self, chosen: Flags) -> tuple[Codes | None, Codes | None]:
        """Groups and clusters of the chosen items."""
        groups, clusters = self.groups, self.clusters
        return (
            None if groups is None else groups[chosen],
            None if clusters is None else clusters[chosen],
        )


def _numbers(
    kind: str,
    values: Floats,
    labels: Flags,
    codes: tuple[Codes | None, Codes | None],
    seed: int,
) -> dict[str, Any]:
    """codes: groups and clusters."""
    result = auroc(values, labels, *codes)
    control = shuffled(values, labels, *codes, seed=seed)
    if result is None or control is None:
        return {}
    low, high = result.interval or (None, None)
    numbers = {
        "auroc": result.value,
        "ci_low": low,
        "ci_high": high,
        "p_value": result.p_value,
        "shuffled_mean": control.mean,
        "shuffled_low": control.low,
        "shuffled_high": control.high,
    }
    row: dict[str, Any] = {f"{kind}{name}": value for name, value in numbers.items()}
    return row if codes[0] is None else row | {"n_groups": result.n_groups}


def with_q(rows: pl.DataFrame, order: Sequence[str], groups: Groups) -> pl.DataFrame:
    """`rows` sorted by their feature's index in `order`, with q over all p values except those of
    the gold answer.
    """
    p_value = "p_value" if groups.codes is None else "within_p_value"
    tested = rows[p_value].is_not_null() & (rows["role"] != "gold")
    q_values = iter(benjamini_hochberg(rows.filter(tested)[p_value].to_list()))
    q_value = [next(q_values) if made else None for made in tested]
    rank = pl.col("feature").replace_strict(list(order), range(len(order)))
    return rows.with_columns(pl.Series("q_value", q_value, dtype=pl.Float64)).sort(
        rank, maintain_order=True
    )


def ranked(
    items: EvaluatedItems,
    labels: Flags,
    values: Sequence[FeatureValues],
    *,
    declared: Mapping[str, Feature],
    covariates: Sequence[str],
    without_partial: Sequence[str],
    kinds: tuple[str, str],
) -> tuple[pl.DataFrame, Groups]:
    """How well each of the `declared` features tells items with a label from the others, and the
    groups of the items. Arguments are as of `Measure`.
    """
    of_item = {value.feature: value.numbers for value in values}
    clusters = items.clusters
    groups = groups_of(items.table["item_group"], labels, clusters)
    measure = Measure(
        labels=labels,
        groups=groups.codes,
        clusters=clusters,
        baselines=[of_item[f.name] for f in declared.values() if f.role == "baseline"],
        covariates={name: of_item[name] for name in covariates},
        without_partial=without_partial,
        kinds=kinds,
        seed=items.settings.seed,
    )
    plan = items.view.run.plan
    rows = [measure.row_of(declared[v.feature], v, plan) for v in values if v.feature in declared]
    frame = pl.DataFrame(rows, schema=frame_schema(feature_columns(kinds)), orient="row")
    return with_q(frame, list(declared), groups), groups
