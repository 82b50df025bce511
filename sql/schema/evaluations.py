"""Evaluated tasks, and what `lpp-analyze items` finds: features of items, and confidence."""

from typing import Final

from lpp.sql.schema.columns import RUN, Column, Table

_EVALUATION: Final = (
    Column("source", "VARCHAR", "as in the view items"),
    Column("task", "VARCHAR", "task of lm-eval"),
    RUN,
    Column("filter", "VARCHAR", "what processed the answers before they were scored"),
)
EVALUATION_KEY: Final = tuple(column.name for column in _EVALUATION)

EVALUATIONS: Final = Table(
    "evaluations",
    "evaluated task of a run whose items the store has",
    "lpp-capture eval --tasks TASK --store STORE",
    EVALUATION_KEY,
    (
        *_EVALUATION,
        Column("model", "VARCHAR", "as in the view items"),
        Column("n_items", "INTEGER", "items of the task, scored or not", "items"),
        Column("n_right", "INTEGER", "items that were answered correctly", "items"),
        Column("n_wrong", "INTEGER", "items that were not", "items"),
        Column("items", "VARCHAR", "fingerprint of the items and their scores"),
    ),
)

_KEY: Final = (
    *_EVALUATION,
    Column("skip_first", "INTEGER", "first positions left out of a question; 0: none", "tokens"),
    Column("seed", "BIGINT", "seed of folds, shuffled labels and resamples"),
)
ANALYSIS_KEY: Final = tuple(column.name for column in _KEY)
"""What identifies an analysis: its rows in all four tables are replaced together."""

ITEM_ANALYSES: Final = Table(
    "item_analyses",
    "evaluated task of a run whose items were analysed",
    "lpp-analyze items STORE --task TASK",
    ANALYSIS_KEY,
    (
        *_KEY,
        Column("n_right", "INTEGER", "items that were answered correctly", "items"),
        Column("n_wrong", "INTEGER", "items that were not", "items"),
        Column("accuracy", "DOUBLE", "n_right over n_right + n_wrong", "share"),
        Column("accuracy_ci_low", "DOUBLE", "lower end of its 95 % interval, by cluster", "share"),
        Column("accuracy_ci_high", "DOUBLE", "upper end of its 95 % interval", "share"),
        Column("n_left_out", "INTEGER", "items that could not be analysed", "items"),
        Column("n_groups", "INTEGER", "groups of items; 0: items have no groups", "groups"),
        Column("n_within", "INTEGER", "items compared within groups; 0: none", "items"),
        Column("cluster", "VARCHAR", "field that clusters items; empty: independent"),
        Column("n_clusters", "INTEGER", "clusters of items; 0: independent", "clusters"),
        Column("ece", "DOUBLE", "calibration error; null: items have one answer", "share"),
        Column("ece_ci_low", "DOUBLE", "lower end of its 95 % interval", "share"),
        Column("ece_ci_high", "DOUBLE", "upper end of its 95 % interval", "share"),
        Column("ece_calibrated", "DOUBLE", "mean ece of a calibrated model", "share"),
        Column("ece_by_chance", "DOUBLE", "95th percentile of ece if calibrated", "share"),
        Column("risk_by", "VARCHAR", "feature that orders items in item_risk"),
        Column("risk_area", "DOUBLE", "mean risk over all coverages", "share"),
        Column("risk_best", "DOUBLE", "risk_area if all right items came first", "share"),
        Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
    ),
)

_AUROC: Final = {
    "": "P(a right item has the larger value)",
    "within_": "auroc over pairs within one group",
    "partial_": "auroc given answer_length, chosen_logprob",
}


def _numbers(kind: str) -> tuple[Column, ...]:
    return (
        Column(f"{kind}auroc", "DOUBLE", _AUROC[kind], "probability"),
        Column(f"{kind}ci_low", "DOUBLE", "lower end of its 95 % interval", "probability"),
        Column(f"{kind}ci_high", "DOUBLE", "upper end of its 95 % interval", "probability"),
        Column(f"{kind}p_value", "DOUBLE", "if the AUROC were 0.5, uncorrected", "probability"),
        Column(f"{kind}shuffled_mean", "DOUBLE", "mean with shuffled labels", "probability"),
        Column(f"{kind}shuffled_low", "DOUBLE", "95 % of shuffles lie above", "probability"),
        Column(f"{kind}shuffled_high", "DOUBLE", "95 % of shuffles lie below", "probability"),
    )


ITEM_FEATURES: Final = Table(
    "item_features",
    "how well a feature of an item tells right answers from wrong ones",
    "lpp-analyze items STORE --task TASK",
    (*ANALYSIS_KEY, "feature", "site"),
    (
        *_KEY,
        Column("feature", "VARCHAR", "its declared name"),
        Column("site", "VARCHAR", "site of the feature; empty: it has no site"),
        Column("depth", "INTEGER", "0 at embed, k at block.k, B at final", "blocks"),
        Column("role", "VARCHAR", "baseline, statistic, gold or rows"),
        Column("unit", "VARCHAR", "of the feature"),
        Column("n_right", "INTEGER", "right items that have the feature", "items"),
        Column("n_wrong", "INTEGER", "wrong items that have the feature", "items"),
        Column("n_groups", "INTEGER", "groups that are compared", "groups"),
        *(column for kind in _AUROC for column in _numbers(kind)),
        Column("q_value", "DOUBLE", "after Benjamini-Hochberg; null: gold", "probability"),
        Column("gain", "DOUBLE", "distance to 0.5 beyond the best baseline's", "probability"),
        Column("gain_ci_low", "DOUBLE", "lower end of its 95 % interval, paired", "probability"),
        Column("gain_ci_high", "DOUBLE", "upper end of its 95 % interval", "probability"),
        Column("gain_p_value", "DOUBLE", "if there were no gain, uncorrected", "probability"),
        Column("why_none", "VARCHAR", "why there is no auroc; null: there is one"),
    ),
)

ITEM_RELIABILITY: Final = Table(
    "item_reliability",
    "bin of items by confidence, and how many are right",
    "lpp-analyze items STORE --task TASK",
    (*ANALYSIS_KEY, "bin"),
    (
        *_KEY,
        Column("bin", "INTEGER", "from 0, by ascending confidence"),
        Column("n", "INTEGER", "items in the bin", "items"),
        Column("confidence", "DOUBLE", "mean chosen_share", "share"),
        Column("accuracy", "DOUBLE", "right items over n", "share"),
        Column("accuracy_ci_low", "DOUBLE", "lower end of Wilson's 95 % interval", "share"),
        Column("accuracy_ci_high", "DOUBLE", "upper end of Wilson's 95 % interval", "share"),
    ),
)

ITEM_RISK: Final = Table(
    "item_risk",
    "share of wrong answers among the most confident items",
    "lpp-analyze items STORE --task TASK",
    (*ANALYSIS_KEY, "n_answered"),
    (
        *_KEY,
        Column("n_answered", "INTEGER", "the n_answered most confident items", "items"),
        Column("coverage", "DOUBLE", "n_answered over all items", "share"),
        Column("risk", "DOUBLE", "wrong ones among n_answered", "share"),
    ),
)
