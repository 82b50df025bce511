"""An analysis of items as tables of the database of its store, beside earlier ones."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from lpp.analyze.evaluations.analysis import FEATURE_COLUMNS, ItemAnalysis
from lpp.analyze.quantities import flags as number_flags
from lpp.analyze.quantities.tables import frame_schema, interval_columns, shared
from lpp.analyze.runs.keys import Url
from lpp.analyze.tables.database import put
from lpp.sql.schema.columns import INTERVAL, Column, Merging, Table, number_columns
from lpp.sql.schema.evaluations import EVALUATION
from lpp.store.objects.place import Place

FEW_CLUSTERS: Final = 30
"""With fewer clusters than this, an error by clusters is itself uncertain, and mostly too small.
Simulated on noise: with 40 clusters of 1 to 12 items the interval of an AUROC held 0.5 in 93 %,
with one of 60 items and 60 single ones in 76 %."""

FEW_OF_A_KIND: Final = 30
"""With fewer right or wrong items than this, chance alone gives AUROCs from 0.4 to 0.6."""

MEANING: Final[Mapping[str, str]] = {
    "few_items": f"fewer than {FEW_OF_A_KIND} items are right, or wrong: an AUROC is known to "
    "within 0.1 at best",
    "few_clusters": f"fewer than {FEW_CLUSTERS} clusters, or a few hold most: intervals are "
    "rough, mostly too short",
    "first_positions": "first positions, often sinks, take part in means of rows: --skip-first 1 "
    "leaves one out",
    "independent_items": "items are taken as independent (see --cluster): those of one passage or "
    "scene make intervals too short and p too small; FIELD says which belong together",
    "items_left_out": "some items could not be analysed: they were set aside, their shards are "
    "missing, or they are neither right nor wrong",
    "lossy": number_flags.MEANING["lossy"],
    "no_groups": "no groups, so hard subjects may look like wrong answers: lpp-capture eval "
    "--group FIELD names the subject",
    "small_groups": "groups too small to compare items within them: a feature that only tells easy "
    "groups from hard ones counts too",
    "uncut_answers": "answers reach beyond their stop strings: an earlier release stored them, "
    "their length and ln p included; evaluate again, no pass is repeated",
}
"""The meaning of each flag of `item_analyses`."""


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
    Column("n_wrong", "INTEGER", "items that were not", "items"),
    *number_columns(
        "accuracy", "n_right over n_right + n_wrong", "share", INTERVAL, how=", by cluster"
    ),
    Column("n_left_out", "INTEGER", "items that could not be analysed", "items"),
    Column("n_groups", "INTEGER", "groups of items; 0: items have no groups", "groups"),
    Column("n_within", "INTEGER", "items compared within groups; 0: none", "items"),
    Column("cluster", "VARCHAR", "field that clusters items; empty: independent"),
    Column("n_clusters", "INTEGER", "clusters of items; 0: independent", "clusters"),
    *number_columns("ece", "calibration error; null: items have one answer", "share", INTERVAL),
    *number_columns("ece_calibrated", "mean ece of a calibrated model", "share"),
    *number_columns("ece_by_chance", "95th percentile of ece if calibrated", "share"),
    Column("risk_by", "VARCHAR", "feature that orders items in item_risk"),
    *number_columns("risk_area", "mean risk over all coverages", "share"),
    *number_columns("risk_best", "risk_area if all right items came first", "share"),
    *shared("flags"),
)

ITEM_FEATURES: Final = _table(
    "item_features",
    "how well a feature of an item tells right answers from wrong ones",
    *FEATURE_COLUMNS,
    key=("feature", "site"),
)

ITEM_RELIABILITY: Final = _table(
    "item_reliability",
    "bin of items by confidence, and how many are right",
    Column("bin", "INTEGER", "from 0, by ascending confidence"),
    Column("n", "INTEGER", "items in the bin", "items"),
    *number_columns("confidence", "mean chosen_share", "share"),
    *number_columns("accuracy", "right items over n", "share", INTERVAL, how=", Wilson's"),
    key=("bin",),
)

ITEM_RISK: Final = _table(
    "item_risk",
    "share of wrong answers among the most confident items",
    Column("n_answered", "INTEGER", "the n_answered most confident items", "items"),
    Column("coverage", "DOUBLE", "n_answered over all items", "share"),
    *number_columns("risk", "wrong ones among n_answered", "share"),
    key=("n_answered",),
)


def item_tables(analysis: ItemAnalysis) -> dict[str, pl.DataFrame]:
    """Tables `item_analyses`, `item_features`, `item_reliability` and `item_risk`, by name.

    Without calibration `item_reliability` has no rows.
    """
    n_ordered = analysis.risk.curve[-1][0]
    bins = () if analysis.calibration is None else analysis.calibration.reliability
    rows: dict[Table, list[dict[str, Any]]] = {
        ITEM_ANALYSES: [_analysis(analysis)],
        ITEM_FEATURES: [
            {**row, "site": row["site"] or ""} for row in analysis.features.iter_rows(named=True)
        ],
        ITEM_RELIABILITY: [
            {"bin": k, "n": b.n, "confidence": b.confidence, "accuracy": b.accuracy}
            | interval_columns("accuracy", b.interval)
            for k, b in enumerate(bins)
        ],
        ITEM_RISK: [
            {"n_answered": answered, "coverage": answered / n_ordered, "risk": risk}
            for answered, risk in analysis.risk.curve
        ],
    }
    key = {
        **{name: getattr(analysis, name) for name in ("source", "task", "run", "filter")},
        **{name: getattr(analysis.settings, name) for name in ("skip_first", "seed")},
    }
    return {
        table.name: pl.DataFrame([key | row for row in part], schema=frame_schema(table.columns))
        for table, part in rows.items()
    }


def write_items(store: Url, analysis: ItemAnalysis) -> Place:
    """Write `item_tables` to the database of `store`; return the file's path.

    They replace all rows of an earlier analysis of the same task, run and settings, because q is
    over all of its features. Other analyses stay while their run and their items are unchanged.
    Raises what `lpp.sql.build` raises.
    """
    return put(store, item_tables(analysis))


def item_flags(analysis: ItemAnalysis) -> Iterator[str]:
    """Flags of an analysis, of `MEANING`."""
    if min(analysis.n_right, analysis.n_wrong) < FEW_OF_A_KIND:
        yield "few_items"
    if 0 < analysis.even_clusters < FEW_CLUSTERS:
        yield "few_clusters"
    if not analysis.settings.skip_first:
        yield "first_positions"
    if analysis.cluster is None:
        yield "independent_items"
    if analysis.left_out:
        yield "items_left_out"
    if analysis.lossy:
        yield "lossy"
    if not analysis.n_groups:
        yield "no_groups"
    elif not analysis.n_within:
        yield "small_groups"
    if analysis.uncut:
        yield "uncut_answers"


def _analysis(answer: ItemAnalysis) -> dict[str, Any]:
    n = answer.n_right + answer.n_wrong
    row: dict[str, Any] = {
        **{name: getattr(answer, name) for name in ("n_right", "n_wrong", "n_groups", "n_within")},
        "cluster": answer.cluster or "",
        "n_clusters": answer.n_clusters,
        "accuracy": answer.n_right / n,
        **interval_columns("accuracy", answer.accuracy_interval),
        "n_left_out": sum(answer.left_out.values()),
        "risk_by": answer.confidence,
        "risk_area": answer.risk.area,
        "risk_best": answer.risk.best,
        "flags": list(item_flags(answer)),
    }
    calibrated = answer.calibration
    if calibrated is not None:
        mean, most = calibrated.calibrated
        row |= {"ece": calibrated.ece, "ece_calibrated": mean, "ece_by_chance": most}
        row |= interval_columns("ece", calibrated.interval)
    return row
