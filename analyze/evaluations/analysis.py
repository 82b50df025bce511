"""How well each feature of an item tells whether the model's answer is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.features import (
    COVARIATES,
    FEATURES,
    WITHOUT_PARTIAL,
    Feature,
    item_features,
)
from lpp.analyze.evaluations.rows import row_features
from lpp.analyze.numerics.association import benjamini_hochberg
from lpp.analyze.numerics.auroc import (
    FEWEST_OF_A_GROUP,
    Codes,
    Flags,
    auroc,
    residual_ranks,
    shuffled,
)
from lpp.analyze.numerics.calibration import Calibration, RiskCoverage, calibration, risk_coverage
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.keys import Url, depth
from lpp.analyze.runs.select import matching
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError

FEWEST_ITEMS: Final = 50
FEWEST_OF_A_KIND: Final = 10
"""Right items, and wrong ones. With 10 of 50, chance alone gives 0.3 to 0.7."""

_NUMBERS: Final = ("", "within_", "partial_")
_COLUMNS: Final = (
    "auroc",
    "ci_low",
    "ci_high",
    "p_value",
    *(f"shuffled_{n}" for n in ("mean", "low", "high")),
)

SCHEMA: Final = pl.Schema(
    {
        "feature": pl.String(),
        "site": pl.String(),
        "depth": pl.Int32(),
        "role": pl.String(),
        "unit": pl.String(),
        "n_right": pl.Int32(),
        "n_wrong": pl.Int32(),
        "n_groups": pl.Int32(),
        **{f"{kind}{name}": pl.Float64() for kind in _NUMBERS for name in _COLUMNS},
        "q_value": pl.Float64(),
        "why_none": pl.String(),
    }
)
"""One row for each feature, and site where it is of rows. auroc: over all items; `within_`: within
groups alone, null where `n_within` is 0; `partial_`: of what answer_length and chosen_logprob
leave of the feature's ranks, within groups unless `n_within` is 0. ci_: 95 %. shuffled_: 200 draws
with shuffled labels, mean and 95 % range. p_value: of an AUROC of 0.5. q_value: Benjamini-Hochberg
over all rows but the gold answer's, of within_p_value unless `n_within` is 0, else of p_value:
a feature that only tells easy groups from hard ones tells nothing of an item. why_none: why there
is no auroc."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAnalysis:
    """What one evaluated task says of right and wrong answers."""

    task: str
    run: str
    source: str
    model: str
    filter: str
    """Of lm-eval, as of `EvaluatedItems`."""
    n_right: int
    n_wrong: int
    n_groups: int
    """0: the items have no groups."""
    n_within: int
    """Items that are compared within groups: those of groups with two right and two wrong ones. 0:
    none are, since the items have no groups, or fewer such items than are ranked."""
    left_out: Mapping[str, int]
    """Items that do not count, by the reason."""
    skip_first: int
    seed: int
    features: pl.DataFrame
    """`SCHEMA`: baselines first, then in the order of `FEATURES`; sites by depth."""
    confidence: str
    """Feature that items are ordered by in `risk`."""
    calibration: Calibration | None
    """Of chosen_share; None where items have one answer."""
    risk: RiskCoverage
    keeps_rows: bool
    """Whether the run keeps rows, which features of sites need."""


def items(
    store: Url,
    task: str,
    *,
    run: str | None = None,
    source: str | None = None,
    filter: str | None = None,  # noqa: A002
    sites: Sequence[str] = ("*",),
    skip_first: int = 0,
    seed: int = 0,
) -> ItemAnalysis:
    """AUROC of every feature of the items of `task`, calibration, and risk against coverage.

    run, source, filter: as of `evaluated_items`, and the rest as of `analysis`, which raise
    InputError and FormatError.
    """
    some = evaluated_items(store, task, run=run, source=source, filter=filter)
    return analysis(some, sites=sites, skip_first=skip_first, seed=seed)


def analysis(
    some: EvaluatedItems,
    *,
    sites: Sequence[str] = ("*",),
    skip_first: int = 0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ItemAnalysis:
    """The analysis of these items.

    sites: patterns, for features of rows where the run keeps them. skip_first: leave out so many
    first positions of each prompt from the features of a question. seed: of folds, shuffles and
    resamples. progress: one, and one for each site of `kept_sites`.

    Raises InputError for a site that the run lacks, and for fewer than 50 items, or fewer than 10
    right or wrong ones: they give no ranking. FormatError for altered bytes.
    """
    right = some.table["right"].to_numpy()
    _check_enough(some, right)
    held = kept_sites(some, sites)
    values = item_features(some, first_position=skip_first)
    progress.advance()
    groups = _groups(some.table["item_group"])
    n_groups = 0 if groups is None else len(np.unique(groups))
    n_within = 0 if groups is None else _n_within(groups, right)
    groups = groups if n_within else None
    covariates = {name: values[name] for name in COVARIATES}
    measure = _Measure(right, groups, covariates, seed)
    declared = {feature.name: feature for feature in FEATURES}
    rows = [measure.row(declared[name], of_item) for name, of_item in values.items()]
    for site in held:
        at = depth(site, some.view.run.plan.model.n_blocks)
        found = row_features(some, site, first_position=skip_first, seed=seed)
        for name, of_site in found.items():
            rows.append({**measure.row(declared[name], of_site), "site": site, "depth": at})
        progress.advance()
    calibrated, confidence, risk = _confidence(values, right, seed)
    return ItemAnalysis(
        task=some.task,
        run=some.view.run.id,
        source=some.source,
        model=some.model,
        filter=some.filter,
        n_right=int(right.sum()),
        n_wrong=int((~right).sum()),
        n_groups=n_groups,
        n_within=n_within,
        left_out=some.left_out,
        skip_first=skip_first,
        seed=seed,
        features=_with_q(
            pl.DataFrame(rows, schema=SCHEMA, orient="row"),
            list(declared),
            "p_value" if groups is None else "within_p_value",
        ),
        confidence=confidence,
        calibration=calibrated,
        risk=risk,
        keeps_rows=some.view.run.plan.keeps_rows,
    )


def kept_sites(some: EvaluatedItems, patterns: Sequence[str]) -> list[str]:
    """Those of the sites that fit `patterns` whose rows the run keeps: all or none."""
    run = some.view.run
    chosen = matching("site", patterns, run.sites, option="--sites")
    return chosen if run.plan.keeps_rows else []


def _check_enough(some: EvaluatedItems, right: Flags) -> None:
    n, n_right = len(right), int(right.sum())
    if n >= FEWEST_ITEMS and FEWEST_OF_A_KIND <= n_right <= n - FEWEST_OF_A_KIND:
        return
    out = "".join(f", {count} left out ({why})" for why, count in some.left_out.items())
    raise InputError(
        f"not ranked: --task {some.task} has {n} items, {n_right} right and {n - n_right} "
        f"wrong{out}. It takes {FEWEST_ITEMS} items, and {FEWEST_OF_A_KIND} of each "
        "kind: of fewer, chance alone gives an AUROC of 0.3 or 0.7. Evaluate more items "
        "(lpp-capture eval without --limit), or an easier or harder task.",
        kind=ErrorKind.INCOMPLETE,
    )


def _groups(column: pl.Series) -> Codes | None:
    """A number for each group; items without one are a group. None where no item has any."""
    if column.is_null().all():
        return None
    codes: Codes = np.unique(column.fill_null("").to_numpy(), return_inverse=True)[1]
    return codes


def _n_within(groups: Codes, right: Flags) -> int:
    """Items of groups with enough of both kinds to be compared; 0 where they are too few in all."""
    n_right, n_wrong = np.bincount(groups, right), np.bincount(groups, ~right)
    enough = np.minimum(n_right, n_wrong) >= FEWEST_OF_A_GROUP
    of_right, of_wrong = int(n_right[enough].sum()), int(n_wrong[enough].sum())
    few = of_right + of_wrong < FEWEST_ITEMS or min(of_right, of_wrong) < FEWEST_OF_A_KIND
    return 0 if few else of_right + of_wrong


@dataclass(frozen=True, slots=True)
class _Measure:
    """What every feature is held against."""

    right: Flags
    groups: Codes | None
    covariates: Mapping[str, Floats]
    seed: int

    def row(self, feature: Feature, values: Floats) -> dict[str, Any]:
        """A row of `SCHEMA` of a feature's (n,) values, but for site, depth and q."""
        others = np.column_stack(list(self.covariates.values()))
        there = np.isfinite(values) & np.isfinite(others).all(axis=1)
        some, right = values[there], self.right[there]
        row: dict[str, Any] = dict.fromkeys(SCHEMA)
        row |= {"feature": feature.name, "role": feature.role, "unit": feature.unit}
        row |= {"n_right": int(right.sum()), "n_wrong": int((~right).sum())}
        if not there.any():
            row["why_none"] = "not defined for any item"
        elif len(some) < FEWEST_ITEMS or min(row["n_right"], row["n_wrong"]) < FEWEST_OF_A_KIND:
            row["why_none"] = "defined for too few items"
        elif np.ptp(some) == 0:
            row["why_none"] = "the same for every item"
        else:
            row |= _numbers("", some, right, None, self.seed)
            codes = None if self.groups is None else self.groups[there]
            if codes is not None:
                row |= _numbers("within_", some, right, codes, self.seed)
            rest = residual_ranks(some, others[there], codes)
            if feature.name not in WITHOUT_PARTIAL and rest is not None:
                row |= _numbers("partial_", rest, right, codes, self.seed)
        return row


def _numbers(
    kind: str, values: Floats, right: Flags, groups: Codes | None, seed: int
) -> dict[str, Any]:
    found = auroc(values, right, groups)
    control = shuffled(values, right, groups, seed=seed)
    if found is None or control is None:
        return {}
    low, high = found.interval or (None, None)
    numbers = {
        "auroc": found.value,
        "ci_low": low,
        "ci_high": high,
        "p_value": found.p_value,
        "shuffled_mean": control.mean,
        "shuffled_low": control.low,
        "shuffled_high": control.high,
    }
    row: dict[str, Any] = {f"{kind}{name}": value for name, value in numbers.items()}
    return row if groups is None else row | {"n_groups": found.n_groups}


def _with_q(features: pl.DataFrame, order: Sequence[str], p_value: str) -> pl.DataFrame:
    """`features` in order, with q of `p_value` over all that have one but the gold answer's."""
    tested = features[p_value].is_not_null() & (features["role"] != "gold")
    q_values = iter(benjamini_hochberg(features.filter(tested)[p_value].to_list()))
    q_value = [next(q_values) if made else None for made in tested]
    place = pl.col("feature").replace_strict(list(order), range(len(order)))
    return features.with_columns(pl.Series("q_value", q_value, dtype=pl.Float64)).sort(
        place, maintain_order=True
    )


def _confidence(
    values: Mapping[str, Floats], right: Flags, seed: int
) -> tuple[Calibration | None, str, RiskCoverage]:
    """Calibration of the chosen answer's share, and risk by it; by its ln p where it has none."""
    share = values["chosen_share"]
    there = np.isfinite(share)
    if there.any():
        some, labels = share[there], right[there]
        return calibration(some, labels, seed=seed), "chosen_share", risk_coverage(some, labels)
    logprob = values["chosen_logprob_token"]
    there = np.isfinite(logprob)
    if not there.any():
        there, logprob = np.ones(len(right), dtype=bool), values["chosen_logprob"]
        return None, "chosen_logprob", risk_coverage(logprob, right)
    return None, "chosen_logprob_token", risk_coverage(logprob[there], right[there])
