"""The tables of probes, and of their tests on another run, and what their flags say."""

from collections.abc import Mapping
from typing import Final, get_args

from lpp.analyze.evaluations.tables import FEW_OF_A_KIND
from lpp.analyze.evaluations.tables import MEANING as ITEM_MEANING
from lpp.analyze.numerics.probe_change import ChangeVerdict
from lpp.analyze.quantities import flags as number_flags
from lpp.analyze.quantities.probes import PROBE_CHANGES, PROBE_NUMBERS
from lpp.analyze.quantities.tables import columns_of, shared
from lpp.sql.schema.columns import INTERVAL, Column, Merging, Table, number_columns

EMBED: Final = "embed"
"""The site that is a control too: its rows know tokens and no context."""

Q: Final = 0.1
"""Expected share of false findings among the sites that are said to tell more than the controls."""

INFORMATIVE: Final = 0.05
"""q below which a site or a control is said to predict a label at all."""

MEANING: Final[Mapping[str, str]] = {
    "duplicates": "some prompts have the same token ids as prompts of other clusters: a probe may "
    "be tested on prompts it was fitted to, and errors are too small; --group FIELD keeps them in "
    "one fold",
    "explained": "a control predicts the label as well as the probe does: the probe may read what "
    "the control reads (see control)",
    "few_clusters": ITEM_MEANING["few_clusters"],
    "few_prompts": f"fewer than {FEW_OF_A_KIND} prompts of a class: an AUROC is known to "
    "within 0.1 at best",
    "first_positions": ITEM_MEANING["first_positions"],
    "heavy_tail": "a few prompts hold most of the spread of the number: R2 and its gain have no "
    "interval; take its logarithm, or ranks, as the label",
    "independent_prompts": "prompts are taken as independent (see --cluster): if several "
    "prompts are passages of one document, intervals are too short and q is too small",
    "lossy": number_flags.MEANING["lossy"],
    "prompts_left_out": "some prompts have no label, or no row as --rows asks",
}
"""The meaning of each flag of `probes`."""

ANALYSIS: Final = (
    *shared("run"),
    Column("label", "VARCHAR", "what is predicted: a field, FIELD=VALUE, or right of items"),
    *(
        Column(name, "VARCHAR", f"{of} of the items; empty: not named or no items")
        for name, of in (("task", "task"), ("source", "source"), ("score_filter", "filter"))
    ),
    Column("rows", "VARCHAR", "last, mean or a position of prompts; each or a field of tokens"),
    Column("skip_first", "INTEGER", "first tokens left out of a mean", "tokens"),
    Column("group_field", "VARCHAR", "field whose values stay in one fold; empty: none"),
    Column("cluster_field", "VARCHAR", "field by which prompts cluster; empty: none"),
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
_OF_BEST: Final = "best site and its control only, else null"

PROBES: Final = _table(
    "probes",
    "how well the rows of a site, or a control, predict a label of the prompts",
    ("probe",),
    _PROBE,
    Column("role", "VARCHAR", "site or control"),
    Column("is_best", "BOOLEAN", "whether the page reports this site first"),
    *shared("depth"),
    Column("n_prompts", "INTEGER", "prompts with a label and a row", "prompts"),
    Column("classes", "VARCHAR[]", "predicted classes; null: a number"),
    Column("n_second", "INTEGER", "prompts of the second of two classes; else null", "prompts"),
    *columns_of(PROBE_NUMBERS["probe_auroc"], INTERVAL),
    *columns_of(PROBE_NUMBERS["probe_r2"], INTERVAL),
    *columns_of(PROBE_NUMBERS["probe_recall"], INTERVAL),
    *columns_of(PROBE_NUMBERS["probe_ece"], INTERVAL, meaning=f"{_ECE}; {_OF_BEST}"),
    *number_columns("ece_by_chance", f"95th percentile if calibrated; {_OF_BEST}", "share"),
    *number_columns("p_value", "one-sided p of labels without information", "probability"),
    *number_columns("chance_q", "p_value after Benjamini-Hochberg", "probability"),
    *number_columns("mean_difference", "AUROC of the difference-of-means direction", "probability"),
    *number_columns("shuffled_mean", "mean AUROC or R2 with shuffled labels", "1"),
    *number_columns("shuffled_high", "95th percentile with shuffled labels", "1"),
    *number_columns("random_mean", "mean AUROC of 19 random directions", "probability"),
    *number_columns("random_high", "largest AUROC of 19 random directions", "probability"),
    Column("control", "VARCHAR", "best control; empty: for a control, or if none varies"),
    *columns_of(PROBE_NUMBERS["probe_gain"], INTERVAL),
    *number_columns("gain_p_value", "p if there were no gain, uncorrected", "probability"),
    *number_columns("q_value", "gain_p_value after Benjamini-Hochberg", "probability"),
    *number_columns("strength", "median regularisation strength over folds", "1"),
    Column("examples", "VARCHAR", "what carries the label: prompts, tokens or items"),
    Column("errors_by", "VARCHAR", "field by which errors cluster, or prompt; empty: independent"),
    Column("n_clusters", "INTEGER", "clusters of errors", "clusters"),
    Column("notes", "VARCHAR[]", "what is left out, and why"),
    *shared("flags"),
)

PROBE_SCORES: Final = _table(
    "probe_scores",
    "score of a prompt by the probe of a site or control fitted to the other folds",
    ("probe", "prompt_id", "position", "class"),
    _PROBE,
    *shared("prompt_id"),
    Column("position", "INTEGER", "position of the row; for a mean, of the last row", "tokens"),
    Column("class", "VARCHAR", "class that is scored; empty: a number"),
    Column("fold", "INTEGER", "fold of the prompt, from 0"),
    *number_columns("target", "1: the class, 0: another class; or the number", "1"),
    *number_columns("score", "log odds of the class, or predicted number", "1"),
)

PROBE_RELIABILITY: Final = _table(
    "probe_reliability",
    "share of the second class in bins of its probability, for the best site and its control",
    ("probe", "bin"),
    _PROBE,
    Column("bin", "INTEGER", "number of the bin, from 0, by ascending probability"),
    Column("n", "INTEGER", "prompts in the bin, times the classes if several", "prompts"),
    *number_columns("confidence", "mean probability of the second class", "share"),
    *number_columns("accuracy", "share of the second class", "share", INTERVAL, how=", Wilson's"),
)

COMPARISON_KEY: Final = (*KEY, "run_b", "label_b")
"""Columns that identify a comparison."""

PROBE_TESTS: Final = Table(
    "probe_tests",
    "whether the probe of a site of one run still works on the rows of another",
    "lpp-analyze probe STORE --label FIELD --against RUN",
    (*COMPARISON_KEY, "probe", "site_b"),
    (
        *ANALYSIS,
        *shared("run_b"),
        Column("label_b", "VARCHAR", "label of run B; empty: with --against, the labels of run"),
        Column("probe", "VARCHAR", "site of run to whose rows the probe is fitted"),
        Column("site_b", "VARCHAR", "site of run B whose rows it scores"),
        *shared("depth"),
        Column("is_best", "BOOLEAN", "whether the comparison takes the verdict of this site"),
        Column("verdict", "VARCHAR", ", ".join(get_args(ChangeVerdict))),
        Column("n_prompts", "INTEGER", "prompts tested", "prompts"),
        *columns_of(PROBE_NUMBERS["probe_auroc"], INTERVAL, meaning="AUROC of the probe on run"),
        *number_columns("tested_auroc", "AUROC of the probe on run B", "probability", INTERVAL),
        *columns_of(PROBE_CHANGES["probe_auroc_change"], INTERVAL),
        *number_columns("reference_flagged", "share above the threshold, reference", "share"),
        *number_columns("flagged", "share above the threshold, probe on run B", "share"),
        *columns_of(PROBE_CHANGES["probe_flagged_change"], INTERVAL),
        *number_columns("flagged_p_value", "McNemar's p, by cluster", "probability"),
        *number_columns("reference_false_alarms", "reference_flagged of the first class", "share"),
        *number_columns("false_alarms", "flagged of the first class", "share"),
        *number_columns("reference_recall", "reference_flagged of the second class", "share"),
        *number_columns("recall", "flagged of the second class", "share"),
        *number_columns("margin", "largest change that does not matter", "1"),
        *number_columns("auroc_floor", "change of the AUROC by a rerun; null: no rerun", "1"),
        *number_columns("flagged_floor", "change of the share by a rerun; null: no rerun", "1"),
        Column("notes", "VARCHAR[]", "which prompts one run lacks, or both runs have"),
        *shared("flags"),
    ),
    merging=Merging(replaced=COMPARISON_KEY),
)


def tells_more(gain: float | None, q_value: float | None) -> bool:
    """Whether a probe with this gain over the best control, and its q, tells more than that."""
    return gain is not None and gain > 0 and q_value is not None and q_value < Q
