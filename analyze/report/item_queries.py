"""Queries on the analyses of items that the database holds."""

from collections.abc import Sequence
from typing import Final

from lpp.analyze.evaluations.tables import ANALYSIS_KEY
from lpp.analyze.report.queries import Query, whole
from lpp.sql import saved_query
from lpp.sql.schema import TABLES

COMMAND: Final = "lpp-analyze items STORE --task TASK"

OF_ANALYSIS: Final = ("task", "run", *(k for k in ANALYSIS_KEY if k not in ("task", "run")))
"""The key of an analysis, in the order in which it is shown."""

_KEY: Final = ", ".join(OF_ANALYSIS)


def _numbers(kinds: Sequence[str]) -> str:
    """AUROCs with their intervals, in three digits."""
    return ",\n  ".join(
        f"round({kind}auroc, 3) AS {kind}auroc, round({kind}ci_low, 3) AS {kind}auroc_ci_low, "
        f"round({kind}ci_high, 3) AS {kind}auroc_ci_high"
        for kind in kinds
    )


_SHOWN: Final = _numbers(("", "within_"))

ITEM_ANALYSES: Final = Query(
    "item-analyses",
    "Evaluated tasks: accuracy and calibration, with 95 % intervals",
    "item_analyses",
    ANALYSIS_KEY,
    f"SELECT {_KEY}, flags,\n"
    "  n_right, n_wrong, accuracy, accuracy_ci_low, accuracy_ci_high,\n"
    "  n_groups, n_within, cluster, n_clusters, n_left_out,\n"
    "  ece, ece_ci_low, ece_ci_high, ece_calibrated, ece_by_chance, risk_area, risk_best\n"
    "FROM item_analyses ORDER BY ALL",
    COMMAND,
    first=("run", "task", "accuracy", "ece", "n_right", "n_wrong"),
)

ITEM_FEATURES: Final = Query(
    "item-features",
    "How well each feature tells right answers from wrong ones: AUROC, with 95 % intervals",
    "item_features",
    (*ANALYSIS_KEY, "feature"),
    f"SELECT feature, role,\n  {_SHOWN},\n  q_value, round(gain, 3) AS gain, {_KEY}\n"
    "FROM item_features WHERE site = ''\n"
    f"ORDER BY {_KEY}, list_position(['baseline', 'statistic', 'rows', 'gold'], role),\n"
    "  abs(coalesce(within_auroc, auroc) - 0.5) DESC NULLS LAST, feature",
    COMMAND,
    first=("feature", "auroc", "within_auroc", "q_value", "role"),
)

ITEM_SITES: Final = Query(
    "item-sites",
    "Features of the rows at each site: AUROC, with 95 % intervals",
    "item_features",
    (*ANALYSIS_KEY, "feature", "site"),
    f"SELECT site, feature, depth,\n  {_SHOWN},\n  q_value, {_KEY}\n"
    "FROM item_features WHERE site <> ''\n"
    f"ORDER BY {_KEY}, feature, depth, site",
    COMMAND,
    first=("site", "feature", "auroc", "within_auroc", "q_value"),
)

ITEM_CONTROLS: Final = Query(
    "item-controls",
    "Controls: AUROC without answer_length and chosen_logprob, and with shuffled labels",
    "item_features",
    (*ANALYSIS_KEY, "feature", "site"),
    f"SELECT feature, site,\n  {_numbers(('partial_',))},\n"
    "  round(shuffled_mean, 3) AS shuffled_mean, round(shuffled_low, 3) AS shuffled_low,\n"
    "  round(shuffled_high, 3) AS shuffled_high,\n"
    "  round(gain, 3) AS gain, round(gain_ci_low, 3) AS gain_ci_low,\n"
    "  round(gain_ci_high, 3) AS gain_ci_high, gain_p_value,\n"
    f"  p_value, within_p_value, n_right, n_wrong, n_groups, unit, why_none, {_KEY}\n"
    f"FROM item_features\nORDER BY {_KEY}, site <> '', feature, depth, site",
    COMMAND,
    folded=True,
    first=("feature", "partial_auroc", "shuffled_low", "shuffled_high", "p_value", "site"),
)

ITEM_RELIABILITY: Final = Query(
    "item-reliability",
    "Reliability: bins of equally many items by the chosen answer's share",
    "item_reliability",
    TABLES["item_reliability"].key,
    "SELECT bin, n, confidence, accuracy, accuracy_ci_low, accuracy_ci_high,\n"
    f"  {_KEY}\nFROM item_reliability ORDER BY {_KEY}, bin",
    COMMAND,
    folded=True,
    first=("run", "task", "bin", "confidence", "accuracy", "n"),
)

ITEM_RISK: Final = Query(
    "item-risk",
    "Risk against coverage: wrong answers among the most confident items",
    "item_risk",
    TABLES["item_risk"].key,
    f"SELECT n_answered, coverage, risk, {_KEY}\nFROM item_risk ORDER BY {_KEY}, n_answered",
    COMMAND,
    folded=True,
    first=("run", "task", "coverage", "risk", "n_answered"),
)

ITEM_MISTAKES: Final = Query(
    "item-mistakes",
    "The ten wrong answers of each task that the model was most sure of",
    "items",
    ("run", "task", "item"),
    "SELECT item, item_group, question, chosen AS chosen_answer, confidence,\n"
    "  gold AS gold_answer, gold_share, task, run\n"
    f"FROM (\n{saved_query('confident_mistakes').statement}\n)",
    "lpp-capture eval --model MODEL --tasks TASK --store STORE",
    first=("item", "question", "chosen_answer", "confidence", "gold_answer", "gold_share"),
)

ITEM_EVALUATED: Final = Query(
    "item-evaluated",
    "Evaluated tasks of the store",
    "items",
    ("source", "task", "run", "filter"),
    "from lpp.store.items import read_items\n\nread_items(STORE)",
    "lpp-capture eval --model MODEL --tasks TASK --store STORE",
    language="Python",
)

ITEM_TABLES: Final = (ITEM_ANALYSES, ITEM_FEATURES, ITEM_SITES, ITEM_CONTROLS)
ITEM_CURVES: Final = (ITEM_RELIABILITY, ITEM_RISK)
EVERY_FEATURE: Final = whole("item_features")
ITEM_QUERIES: Final = (*ITEM_TABLES, *ITEM_CURVES, EVERY_FEATURE)
"""Queries that need only the tables. Mistakes need the views; evaluated tasks are in the store."""
