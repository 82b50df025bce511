"""Tables of the pages about items of evaluations, and the features among their rows."""

from collections.abc import Iterator
from typing import Any, Final

import polars as pl

from lpp.analyze.evaluations.pages.verdict import FEATURES, SITES, Verdict, named
from lpp.analyze.pages.table import Declared, Shape, Table
from lpp.analyze.pages.words import Style
from lpp.sql.schema import TABLES, VIEWS, Column

RENAMED: Final = {
    f"{kind}ci_{end}": f"{kind}auroc_ci_{end}"
    for kind in ("", "within_", "partial_")
    for end in ("low", "high")
}
"""Names of the ends of intervals on a page, which begin with the name of their number."""

ROLES: Final = ("baseline", "statistic", "drift", "rows", "gold")
"""Roles of features, in the order of tables."""

IN_SHORT: Final = 4
"""Features of items that text shows without --all, those farthest from 0.5, below the best
baseline.
"""

SITES_IN_SHORT: Final = 5
"""Features of sites that text shows without --all."""

_STYLES: Final[dict[str, Style]] = {
    **dict.fromkeys(("auroc", "within_auroc", "partial_auroc", "accuracy", "risk"), "hundredths"),
    **dict.fromkeys(("shuffled_mean", "shuffled_low", "shuffled_high"), "hundredths"),
    **dict.fromkeys(("ece", "ece_calibrated", "ece_by_chance"), "hundredths"),
    **dict.fromkeys(("risk_area", "risk_best", "coverage", "confidence"), "hundredths"),
    **dict.fromkeys(("gold_share", "share_a", "share_b", "gap_a"), "hundredths"),
    **dict.fromkeys(("q_value", "p_value", "within_p_value", "gain_p_value"), "probability"),
    "gain": "signed",
}

_LABELS: Final = {
    **{"q_value": "q", "p_value": "p", "ece": "calibration error"},
    **{"within_auroc": "within groups", "partial_auroc": "partial"},
}

COLUMNS: Final = (
    Column("question", "VARCHAR", "its last 60 tokens"),
    Column("chosen_answer", "VARCHAR", "what the model chose"),
    Column("gold_answer", "VARCHAR", "the right answer"),
    Column("confidence", "DOUBLE", "of the chosen answer among the answers", "share"),
    Column("gold_share", "DOUBLE", "of the right answer among them", "share"),
)
"""Columns that no table of the database declares."""

_DECLARED: Final = {**TABLES, **{view.name: view for view in VIEWS}}


ANALYSES: Final = Shape(
    name="item-analyses",
    title="Evaluated tasks: accuracy and calibration, with 95 % intervals",
    table="item_analyses",
    key=TABLES["item_analyses"].key,
    first=("run", "task", "accuracy", "ece", "n_right", "n_wrong"),
)
OF_ITEMS: Final = Shape(
    name=FEATURES,
    title="AUROC of each feature, with 95 % intervals",
    table="item_features",
    key=TABLES["item_features"].key,
    first=("feature", "auroc", "within_auroc", "q_value", "role"),
)
OF_SITES: Final = Shape(
    name=SITES,
    title="AUROC of features at each site, with 95 % intervals",
    table="item_features",
    key=TABLES["item_features"].key,
    first=("site", "feature", "auroc", "within_auroc", "q_value"),
)
CONTROLS: Final = Shape(
    name="item-controls",
    title="Controls: AUROC without the covariates, and with shuffled labels",
    table="item_features",
    key=TABLES["item_features"].key,
    first=("feature", "site", "partial_auroc", "shuffled_low", "shuffled_high", "p_value"),
    folded=True,
)
RELIABILITY: Final = Shape(
    name="item-reliability",
    title="Reliability: bins of equally many items by the chosen answer's share",
    table="item_reliability",
    key=TABLES["item_reliability"].key,
    first=("run", "task", "bin", "confidence", "accuracy", "n"),
    folded=True,
)
RISK: Final = Shape(
    name="item-risk",
    title="Risk against coverage: wrong answers among the most confident items",
    table="item_risk",
    key=TABLES["item_risk"].key,
    first=("run", "task", "coverage", "risk", "n_answered"),
    folded=True,
)
MISTAKES: Final = Shape(
    name="item-mistakes",
    title="The ten wrong answers of each task that the model was most sure of",
    table="items",
    key=("run", "task", "item"),
    first=("item", "question", "chosen_answer", "confidence", "gold_answer", "gold_share"),
)


def shaped(shape: Shape, frame: pl.DataFrame, **more: Any) -> Table:
    """The table of `shape` with the rows of `frame`. more: as of `Shape.of`."""
    columns = (*COLUMNS, *_DECLARED[shape.table].columns)
    declared: dict[str, Declared] = {column.name: column for column in columns}
    defaults: dict[str, Any] = {"declared": declared, "styles": _STYLES, "labels": _LABELS}
    return shape.of(frame, **defaults | more)


def feature_tables(
    features: pl.DataFrame, verdict: Verdict, call: str, **more: Any
) -> Iterator[Table]:
    """Tables of one analysis: features of items, of each site, and the controls of all.

    features: rows with `feature_columns`. verdict: on them. call: Python that makes `found`, the
    tables of the analysis. more: arguments of `table_of`. Text shows the best site of each
    feature, then the sites that tell more than the best baseline; of the features of items, the
    best baseline and those farthest from 0.5.
    """
    distance = (pl.col(f"{verdict.kind}auroc") - 0.5).abs()
    role = pl.col("role").replace_strict(ROLES, range(len(ROLES)), return_dtype=pl.Int32)
    rows = features.rename(RENAMED)
    rows = rows.select(column for column in rows if column.null_count() < len(column))
    there = rows.drop_nulls("auroc")
    of_items = there.filter(site="").sort(
        role, distance, "feature", descending=[False, True, False], nulls_last=True
    )
    of_sites = there.filter(pl.col("site") != "")
    ranked = of_sites.sort(distance, descending=True, nulls_last=True)
    beyond = pl.DataFrame(
        [(row["feature"], row["site"]) for row in verdict.beyond if row["site"]],
        schema={"feature": pl.String, "site": pl.String},
        orient="row",
    )
    best = ranked.unique("feature", keep="first", maintain_order=True)
    further = ranked.join(beyond, on=beyond.columns, how="semi", maintain_order="left")
    few = pl.concat([best, further]).unique(beyond.columns, keep="first", maintain_order=True)
    far = of_items.filter(~pl.col("role").is_in(["baseline", "gold"]))
    far = far.sort(distance, descending=True, nulls_last=True).head(IN_SHORT)
    baseline = "" if verdict.baseline is None else verdict.baseline["feature"]
    few_items = pl.concat([of_items.filter(role="baseline", feature=baseline), far])
    with_partial = () if verdict.within else ("partial_auroc",)
    first = (*OF_ITEMS.first[:3], *with_partial, *OF_ITEMS.first[3:])
    few_sites, there_is = few.head(SITES_IN_SHORT), ".drop_nulls('auroc')"
    tables: tuple[tuple[Shape, pl.DataFrame, str, dict[str, Any]], ...] = (
        (OF_ITEMS, of_items, f".filter(site=''){there_is}", {"short": few_items, "first": first}),
        (OF_SITES, of_sites, f".filter(pl.col('site') != ''){there_is}", {"short": few_sites}),
        (CONTROLS, rows, "", {"brief": False}),
    )
    for shape, frame, chosen, options in tables:
        if frame.height:
            code = f"{call}found['item_features']{chosen}"
            yield shaped(shape, frame, code=code, **options, **more)


def without_auroc(features: pl.DataFrame) -> Iterator[str]:
    """A sentence on the features that have no AUROC, for each reason."""
    missing = features.filter(pl.col("auroc").is_null())
    for why in missing["why_none"].unique(maintain_order=True):
        rows = missing.filter(pl.col("why_none").eq_missing(pl.lit(why))).iter_rows(named=True)
        yield f"No AUROC of {', '.join(map(named, rows))}: {why}."
