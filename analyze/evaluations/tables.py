"""The tables of an analysis of items, and what their flags say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from lpp.analyze.quantities import flags as number_flags
from lpp.analyze.quantities.tables import shared
from lpp.analyze.questions import ItemsSettings
from lpp.analyze.runs.keys import RunView
from lpp.analyze.tables.result import TableResult, frame_method
from lpp.sql.schema.columns import INTERVAL, Column, Merging, Table, number_columns
from lpp.sql.schema.evaluations import EVALUATION

FEWEST_ITEMS: Final = 50
FEWEST_OF_A_KIND: Final = 10
"""Fewest items of each kind. With 10 of 50, chance alone gives AUROCs from 0.3 to 0.7."""

FEW_CLUSTERS: Final = 30
"""With fewer clusters than this, an error by clusters is itself uncertain, and mostly too small.
Simulated on noise: with 40 clusters of 1 to 12 items the interval of an AUROC held 0.5 in 93 %,
with one of 60 items and 60 single ones in 76 %."""

FEW_OF_A_KIND: Final = 30
"""With fewer right or wrong items than this, chance alone gives AUROCs from 0.4 to 0.6."""

MEANING: Final[Mapping[str, str]] = {
    "few_items": f"fewer than {FEW_OF_A_KIND} right or fewer than {FEW_OF_A_KIND} wrong items: an "
    "AUROC is known to within 0.1 at best",
    "few_clusters": f"fewer than {FEW_CLUSTERS} clusters, or a few clusters hold most of the "
    "data: intervals are rough and mostly too short",
    "first_positions": "means over rows include first positions, which are often sinks: "
    "--skip-first 1 leaves one out",
    "independent_items": "items are taken as independent (see --cluster): if several share a "
    "passage or scene, intervals are too short and p too small. --cluster FIELD groups them",
    "items_left_out": "some items could not be analysed: they were set aside, their shards are "
    "missing, or they are neither right nor wrong",
    "lossy": number_flags.MEANING["lossy"],
    "no_groups": "items have no groups, so a feature may only separate hard subjects from easy "
    "ones: lpp-capture eval --group FIELD names the subject",
    "small_groups": "groups are too small to compare items within them: a feature may only "
    "separate hard groups from easy ones",
    "uncut_answers": "an earlier release did not cut answers at the stop string, so their length "
    "and ln p include the text beyond: evaluate again (no forward pass is repeated)",
}
"""The meaning of each flag of `item_analyses`."""

_AUROC: Final = {
    "": "P(a right item has the larger value)",
    "within_": "auroc over pairs within one group",
    "partial_": "auroc given answer_length, chosen_logprob",
}


def feature_columns(kinds: tuple[str, str]) -> tuple[Column, ...]:
    """Columns of the rows of features: one row for each feature, of rows one for each site.

    kinds: the columns that count the items of both kinds, first the kind that the AUROC is of.
    auroc: over all items; `within_`: only within groups, null if items are not compared within
    groups; `partial_`: of the residuals of the feature's ranks after the covariates, within groups
    if items are compared so, null if more than a tenth of the pairs tie. ci_: 95 %. shuffled_: 200
    draws with shuffled labels, mean and 95 % range. p_value: of an AUROC of 0.5. q_value:
    Benjamini-Hochberg over within_p_value if items are compared within groups, else over p_value: a
    feature that only distinguishes easy groups from hard ones tells nothing about an item.
    gain: the AUROC's distance to 0.5 less the distance of the best baseline's, paired, and within
    groups if items are compared so; null for baselines and for features of the gold answer. Errors,
    p and shuffles are by cluster if items are in clusters. why_none: why there is no auroc.
    """
    unit, gain = "probability", "distance of auroc to 0.5, minus the best baseline's"
    return (
        Column("feature", "VARCHAR", "name of the feature"),
        Column("site", "VARCHAR", "site of the feature; empty: it has no site"),
        *shared("depth"),
        Column("role", "VARCHAR", "baseline, statistic, gold or rows"),
        Column("unit", "VARCHAR", "unit of the feature"),
        *(
            Column(kind, "INTEGER", f"{kind[2:]} items that have the feature", "items")
            for kind in kinds
        ),
        Column("n_groups", "INTEGER", "groups that are compared", "groups"),
        *(column for kind, meaning in _AUROC.items() for column in _auroc(kind, meaning)),
        *number_columns("q_value", "p after Benjamini-Hochberg; null: gold", unit),
        *number_columns("gain", gain, unit, INTERVAL, how=", paired"),
        *number_columns("gain_p_value", "p if there were no gain, uncorrected", unit),
        Column("why_none", "VARCHAR", "why there is no auroc; null: there is one"),
    )


def _auroc(kind: str, meaning: str) -> tuple[Column, ...]:
    unit = "probability"
    return (
        *number_columns(f"{kind}auroc", meaning, unit, INTERVAL, prefix=kind),
        *number_columns(f"{kind}p_value", "p if the AUROC were 0.5, uncorrected", unit),
        *number_columns(f"{kind}shuffled_mean", "mean AUROC with shuffled labels", unit),
        *number_columns(f"{kind}shuffled_low", "2.5th percentile with shuffled labels", unit),
        *number_columns(f"{kind}shuffled_high", "97.5th percentile with shuffled labels", unit),
    )


_ANALYSIS: Final = (
    *EVALUATION,
    Column("skip_first", "INTEGER", "first positions left out of a question; 0: none", "tokens"),
    Column("seed", "BIGINT", "seed of folds, shuffled labels and resamples"),
)
ANALYSIS_KEY: Final = tuple(column.name for column in _ANALYSIS)


def _table(name: str, meaning: str, *columns: Column, key: tuple[str, ...] = ()) -> Table:
    """A table of analyses. key: of a row, beside that of the analysis."""
    return Table(
        name,
        meaning,
        "lpp-analyze items STORE --task TASK",
        (*ANALYSIS_KEY, *key),
        (*_ANALYSIS, *columns),
        # q corrects over all features of an analysis, so its rows are replaced together
        merging=Merging(replaced=ANALYSIS_KEY, of_items=True),
    )


ITEM_ANALYSES: Final = _table(
    "item_analyses",
    "evaluated task of a run whose items were analysed",
    Column("n_right", "INTEGER", "items that were answered correctly", "items"),
    Column("n_wrong", "INTEGER", "items that were answered wrongly", "items"),
    *number_columns(
        "accuracy", "n_right / (n_right + n_wrong)", "share", INTERVAL, how=", by cluster"
    ),
    Column("n_left_out", "INTEGER", "items that could not be analysed", "items"),
    Column("n_groups", "INTEGER", "groups of items; 0: items have no groups", "groups"),
    Column("n_within", "INTEGER", "items compared within groups; 0: none", "items"),
    Column("cluster", "VARCHAR", "field by which items cluster; empty: independent"),
    Column("n_clusters", "INTEGER", "clusters of items; 0: independent", "clusters"),
    *number_columns("ece", "calibration error; null: items have one answer", "share", INTERVAL),
    *number_columns("ece_calibrated", "mean ece of a calibrated model", "share"),
    *number_columns("ece_by_chance", "95th percentile of ece if calibrated", "share"),
    Column("risk_by", "VARCHAR", "feature that orders items in item_risk"),
    *number_columns("risk_area", "mean risk over all coverages", "share"),
    *number_columns("risk_best", "risk_area if all right items came first", "share"),
    Column("notes", "VARCHAR[]", "what is left out, and why"),
    *shared("flags"),
)

LOST: Final = "right to wrong"
GAINED: Final = "wrong to right"
MOVED: Final = "other wrong answer"

CHANGES: Final = (LOST, GAINED, MOVED)
"""How an item can change from run A to run B. `MOVED` exists only for items with several answers to
choose from."""

KINDS: Final = ("n_right", "n_wrong")
FLIP_KINDS: Final = ("n_flipped", "n_stayed")
"""Columns of a feature that count the items of both kinds."""

ITEM_FEATURES: Final = _table(
    "item_features",
    "how well a feature of an item tells right answers from wrong ones",
    *feature_columns(KINDS),
    key=("feature", "site"),
)

ITEM_RELIABILITY: Final = _table(
    "item_reliability",
    "share of right items in bins of confidence",
    Column("bin", "INTEGER", "number of the bin, from 0, by ascending confidence"),
    Column("n", "INTEGER", "items in the bin", "items"),
    *number_columns("confidence", "mean chosen_share", "share"),
    *number_columns("accuracy", "right items / n", "share", INTERVAL, how=", Wilson's"),
    key=("bin",),
)

ITEM_RISK: Final = _table(
    "item_risk",
    "share of wrong answers among the most confident items",
    Column("n_answered", "INTEGER", "number of most confident items that are answered", "items"),
    Column("coverage", "DOUBLE", "n_answered / all items", "share"),
    *number_columns("risk", "share of wrong items among n_answered", "share"),
    key=("n_answered",),
)


_SIDES: Final = {
    f"{name}_{letter}": kind
    for letter in "ab"
    for name, kind in {
        **dict.fromkeys(("run", "source", "model"), pl.String()),
        **dict.fromkeys(("n_left_out", "n_alone"), pl.Int64()),
    }.items()
}
_COUNTS: Final = ("right_in_both", "right_to_wrong", "wrong_to_right", "wrong_in_both")
ITEM_FLIPS: Final = pl.Schema(
    {
        **dict.fromkeys(("task", "filter"), pl.String()),
        **_SIDES,
        "n_items": pl.Int64(),
        "cluster": pl.String(),
        "n_clusters": pl.Int64(),
        **dict.fromkeys((*_COUNTS, "other_wrong_answer"), pl.Int64()),
        **dict.fromkeys(("accuracy_a", "accuracy_b", "difference"), pl.Float64()),
        **dict.fromkeys(("difference_ci_low", "difference_ci_high", "mcnemar_p"), pl.Float64()),
        "left_out": pl.List(pl.String()),
        "why_none": pl.String(),
        "why_no_ranking": pl.String(),
        **dict.fromkeys(("n_groups", "n_within"), pl.Int64()),
        **dict.fromkeys(("covariates", "notes"), pl.List(pl.String())),
    }
)
"""One row for each task that two runs were asked. Numbers are of the items that are right or wrong
in both, but n_left_out and n_alone: of items of one run that cannot be analysed, or that the other
run lacks; left_out says so in sentences. cluster: null if items are independent. why_none: why
nothing is compared. The rest is of the analysis of features: why there is none, groups of the right
items of A, how many are compared within them, what a partial AUROC leaves out, and what cannot be
compared."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ItemAnalysis(TableResult):
    """What tells items of one kind from the others."""

    views: tuple[RunView, ...]
    """The run, or run A and run B."""
    settings: ItemsSettings
    """Those that ask the same again."""
    tables: Mapping[str, pl.DataFrame]
    """Of a run: `item_analyses`, `item_features` (baselines first, then in the order of `FEATURES`;
    sites by depth), `item_reliability` (without rows if items have one answer) and `item_risk`, as
    in the database, and `item_mistakes`. Of two: `item_flips` and `item_changes` of `flip_tables`,
    and `item_features` in the order of `RANKED`: the AUROC is of items that are right in A and
    wrong in B against those that stay right; without rows if `item_flips` says why."""

    def frames(self) -> Mapping[str, pl.DataFrame]:
        """`tables`, `item_features` first."""
        return {"item_features": self.tables["item_features"], **self.tables}

    features_frame = frame_method(ITEM_FEATURES.name)
    analyses_frame = frame_method(ITEM_ANALYSES.name)
    reliability_frame = frame_method(ITEM_RELIABILITY.name)
    risk_frame = frame_method(ITEM_RISK.name)
    mistakes_frame = frame_method("item_mistakes")
    flips_frame = frame_method("item_flips")
    changes_frame = frame_method("item_changes")

    @property
    def row(self) -> dict[str, Any]:
        """The row of `item_analyses`, or of `item_flips`."""
        name = "item_analyses" if len(self.views) == 1 else "item_flips"
        return self.tables[name].row(0, named=True)
