"""Probes as tables of the database of their store, beside earlier ones."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.evaluations.tables import FEW_CLUSTERS, FEW_OF_A_KIND
from lpp.analyze.evaluations.tables import MEANING as ITEM_MEANING
from lpp.analyze.numerics.statistics.clusters import even_clusters
from lpp.analyze.probes.analysis import ProbeAnalysis, ProbeResult
from lpp.analyze.probes.labels import Labels
from lpp.analyze.quantities import flags as number_flags
from lpp.analyze.quantities.probes import PROBE_NUMBERS
from lpp.analyze.quantities.tables import columns_of, frame_schema, interval_columns, shared
from lpp.analyze.questions import LabelProbeSettings
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.tables.database import put
from lpp.sql.schema.columns import INTERVAL, Column, Merging, Table, number_columns
from lpp.store.objects.place import Place

MEANING: Final[Mapping[str, str]] = {
    "duplicates": "some prompts have the token ids of others in other clusters: a probe may score "
    "what it was fitted to, and errors are too small; --group FIELD keeps them together",
    "explained": "a control predicts the label as well (see control): what the probe reads may be "
    "that and not the label",
    "few_clusters": ITEM_MEANING["few_clusters"],
    "few_prompts": f"fewer than {FEW_OF_A_KIND} prompts of a class: an AUROC is known to "
    "within 0.1 at best",
    "first_positions": ITEM_MEANING["first_positions"],
    "heavy_tail": "a few prompts hold most of the spread of the number: R2 and its gain have no "
    "interval; take its logarithm, or ranks, as the label",
    "independent_prompts": "prompts are taken as independent (see --cluster): passages of one "
    "document make intervals too short and q too small",
    "lossy": number_flags.MEANING["lossy"],
    "prompts_left_out": "some prompts have no label or no such row",
}
"""The meaning of each flag of `probes`."""

ANALYSIS: Final = (
    *shared("run"),
    Column("label", "VARCHAR", "field that is predicted, FIELD=VALUE, or right of items"),
    *(
        Column(name, "VARCHAR", f"{of} of the items; empty: not named, or no items")
        for name, of in (("task", "task"), ("source", "source"), ("score_filter", "filter"))
    ),
    Column("rows", "VARCHAR", "last, mean, a position; or each or a field, of tokens"),
    Column("skip_first", "INTEGER", "first tokens that a mean leaves out", "tokens"),
    Column("group_field", "VARCHAR", "field whose values no fold divides; empty: none"),
    Column("cluster_field", "VARCHAR", "field that clusters prompts; empty: none"),
    Column("folds", "INTEGER", "folds of the prompts", "folds"),
    Column("seed", "BIGINT", "seed of folds, shuffled labels and random directions"),
)
"""Columns that identify probes of a label."""

KEY: Final = tuple(column.name for column in ANALYSIS)
_PROBE: Final = Column("probe", "VARCHAR", "site whose rows are read, or name of a control")


def _table(name: str, meaning: str, key: tuple[str, ...], *columns: Column) -> Table:
    return Table(
        name,
        meaning,
        "lpp-analyze probe STORE --label FIELD",
        (*KEY, *key),
        (*ANALYSIS, *columns),
        # q corrects over all sites of an analysis, so its rows are replaced together
        merging=Merging(replaced=KEY),
    )


_ECE: Final = "expected calibration error of the probability of the second class"
_OF_BEST: Final = "of the best site and its control, else null"

PROBES: Final = _table(
    "probes",
    "how well the rows of a site, or a control, predict a label of the prompts",
    ("probe",),
    _PROBE,
    Column("role", "VARCHAR", "site or control"),
    Column("is_best", "BOOLEAN", "site of which the page speaks first, one of an analysis"),
    *shared("depth"),
    Column("n_prompts", "INTEGER", "prompts with a label and a row", "prompts"),
    Column("classes", "VARCHAR[]", "classes that are told apart; null: a number"),
    Column("n_second", "INTEGER", "of the second of two classes; else null", "prompts"),
    *columns_of(PROBE_NUMBERS["probe_auroc"], INTERVAL),
    *columns_of(PROBE_NUMBERS["probe_r2"], INTERVAL),
    *columns_of(PROBE_NUMBERS["probe_recall"], INTERVAL),
    *columns_of(PROBE_NUMBERS["probe_ece"], INTERVAL, meaning=f"{_ECE}; {_OF_BEST}"),
    *number_columns("ece_by_chance", f"95th percentile of it if calibrated; {_OF_BEST}", "share"),
    *number_columns("p_value", "of labels without information, one-sided", "probability"),
    *number_columns("chance_q", "of p, after Benjamini-Hochberg", "probability"),
    *number_columns("mean_difference", "AUROC of the difference of means", "probability"),
    *number_columns("shuffled_mean", "mean AUROC or R2 with shuffled labels", "1"),
    *number_columns("shuffled_high", "95 % of shuffles lie below", "1"),
    *number_columns("random_mean", "mean AUROC of 19 random directions", "probability"),
    *number_columns("random_high", "largest AUROC of 19 random directions", "probability"),
    Column("control", "VARCHAR", "the best control; empty: a control, or none varies"),
    *columns_of(PROBE_NUMBERS["probe_gain"], INTERVAL),
    *number_columns("gain_p_value", "if there were no gain, uncorrected", "probability"),
    *number_columns("q_value", "of the gain, after Benjamini-Hochberg", "probability"),
    *number_columns("strength", "median strength over folds", "1"),
    *shared("flags"),
)

PROBE_SCORES: Final = _table(
    "probe_scores",
    "score of a prompt by the probe of a site or a control that saw other folds alone",
    ("probe", "prompt_id", "position", "class"),
    _PROBE,
    *shared("prompt_id"),
    Column("position", "INTEGER", "of the row; of a mean, of the last", "tokens"),
    Column("class", "VARCHAR", "class of which the score is; empty: a number"),
    Column("fold", "INTEGER", "fold of the prompt, from 0"),
    *number_columns("target", "1: of the class, 0: of another; or the number", "1"),
    *number_columns("score", "log odds of the class, or predicted number", "1"),
)

PROBE_RELIABILITY: Final = _table(
    "probe_reliability",
    "bin of prompts by the probability of the second class, and how many are of it; of the best "
    "site and its control",
    ("probe", "bin"),
    _PROBE,
    Column("bin", "INTEGER", "from 0, by ascending probability"),
    Column("n", "INTEGER", "prompts in the bin; of several classes times the classes", "prompts"),
    *number_columns("confidence", "mean probability of the second class", "share"),
    *number_columns("accuracy", "those of it over n", "share", INTERVAL, how=", Wilson's"),
)


def probes_frame(analysis: ProbeAnalysis) -> pl.DataFrame:
    """Table `probes`: sites by depth, then controls."""
    key = analysis_key(analysis.view, analysis.labels, analysis.settings)
    rows = [key | _row(analysis, result) for result in analysis.results]
    return pl.DataFrame(rows, schema=frame_schema(PROBES.columns))


def probe_tables(analysis: ProbeAnalysis) -> dict[str, pl.DataFrame]:
    """Tables `probes`, `probe_scores` and `probe_reliability`, by name: sites by depth, then
    controls. Of a number `probe_reliability` has no rows.
    """
    labels, which = analysis.labels, analysis.which
    classes = (labels.classes or ("",))[-1 if labels.target.labels.ndim == 1 else 0 :]
    n = len(labels.prompts)
    position = np.full(n, which) if isinstance(which, int) else labels.ends - 1
    of_rows = {"prompt_id": labels.prompts, "position": position, "fold": labels.target.fold}
    targets = labels.target.labels.reshape(n, -1)
    scores = [
        pl.DataFrame({**of_rows, "target": targets[:, k], "score": of_class}).with_columns(
            pl.lit(name).alias("class"), probe=pl.lit(result.name)
        )
        for result in analysis.results
        for k, (name, of_class) in enumerate(
            zip(classes, result.fitted.scores.reshape(n, -1).T, strict=True)
        )
    ]
    key = analysis_key(analysis.view, labels, analysis.settings)
    with_key = [pl.lit(value).alias(name) for name, value in key.items()]
    schema = frame_schema(PROBE_SCORES.columns)
    bins = [
        key
        | {"probe": name, "bin": k, "n": b.n, "confidence": b.confidence, "accuracy": b.accuracy}
        | interval_columns("accuracy", b.interval)
        for name, calibrated in analysis.calibrations.items()
        for k, b in enumerate(calibrated.reliability)
    ]
    return {
        PROBES.name: probes_frame(analysis),
        PROBE_SCORES.name: pl.concat(scores)
        .with_columns(with_key)
        .select(schema.names())
        .cast(schema),
        PROBE_RELIABILITY.name: pl.DataFrame(bins, schema=frame_schema(PROBE_RELIABILITY.columns)),
    }


def analysis_key(view: RunView, labels: Labels, settings: LabelProbeSettings) -> dict[str, Any]:
    """The columns that identify the probes of a label: the key of `PROBES` without the probe."""
    return {
        "run": view.run.id,
        "label": labels.name,
        "task": settings.task or "",
        "source": settings.source or "",
        "score_filter": settings.filter or "",
        "rows": settings.rows,
        "skip_first": settings.skip_first,
        "group_field": settings.group or "",
        "cluster_field": settings.cluster or "",
        "folds": settings.folds,
        "seed": settings.seed,
    }


def write_probes(store: Url, analysis: ProbeAnalysis) -> Place:
    """Write `probe_tables` to the database of `store`; return the file's path. They replace an
    earlier analysis of the same run, label and settings.
    """
    return put(store, probe_tables(analysis))


def probe_flags(labels: Labels, settings: LabelProbeSettings) -> Iterator[str]:
    """Flags of every probe of an analysis, of `MEANING`."""
    target = labels.target
    if labels.duplicates:
        yield "duplicates"
    if even_clusters(target.clusters) < FEW_CLUSTERS:
        yield "few_clusters"
    if target.classes and min(np.bincount(labels.codes.astype(int))) < FEW_OF_A_KIND:
        yield "few_prompts"
    if settings.rows == "mean" and not settings.skip_first:
        yield "first_positions"
    if target.is_heavy:
        yield "heavy_tail"
    if not labels.errors_by:
        yield "independent_prompts"
    if labels.left_out:
        yield "prompts_left_out"


def _row(analysis: ProbeAnalysis, result: ProbeResult) -> dict[str, Any]:
    labels, plan = analysis.labels, analysis.view.run.plan
    number = "probe_auroc" if labels.classes else "probe_r2"
    shuffled = result.number.shuffled
    flags = list(probe_flags(labels, analysis.settings))
    site = result.name in [site.name for site in analysis.sites]
    if site and plan.is_lossy(result.name):
        flags.append("lossy")
    row: dict[str, Any] = {
        "probe": result.name,
        "role": "site" if site else "control",
        "is_best": result.name == analysis.best.name,
        "depth": None if result.is_control else plan.depth_of(result.name),
        "n_prompts": len(labels.prompts),
        "classes": labels.classes,
        "n_second": int(labels.codes.sum()) if labels.two_classes else None,
        number: result.number.value,
        **interval_columns(number, result.number.interval),
        "p_value": result.number.p_value,
        "chance_q": result.chance_q,
        "mean_difference": _known(result.mean_difference),
        "shuffled_mean": float(shuffled.mean()),
        "shuffled_high": float(np.quantile(shuffled, 0.95)),
        "random_mean": _known(result.random[0]),
        "random_high": _known(result.random[1]),
        "control": result.control,
        "q_value": result.q_value,
        "strength": float(np.median(result.fitted.strengths)),
    }
    if result.recall is not None:
        row["probe_recall"] = result.recall.value
        row |= interval_columns("probe_recall", result.recall.interval)
    if (calibrated := analysis.calibrations.get(result.name)) is not None:
        row |= {"probe_ece": calibrated.ece, "ece_by_chance": calibrated.calibrated[1]}
        row |= interval_columns("probe_ece", calibrated.interval)
    if result.gain is not None:
        row |= {"probe_gain": result.gain.value, "gain_p_value": result.gain.p_value}
        row |= interval_columns("probe_gain", result.gain.interval)
        if analysis.is_explained(result):
            flags.append("explained")
    return row | {"flags": sorted(flags)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
