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
    "score what it was fitted to, and errors are too small; --group FIELD keeps them together",
    "explained": "a control predicts the label as well (see control): the probe may read that "
    "instead of the label",
    "few_clusters": ITEM_MEANING["few_clusters"],
    "few_prompts": f"fewer than {FEW_OF_A_KIND} prompts of a class: an AUROC is known to "
    "within 0.1 at best",
    "first_positions": ITEM_MEANING["first_positions"],
    "heavy_tail": "a few prompts hold most of the spread of the number: R2 and its gain have no "
    "interval; take its logarithm, or ranks, as the label",
    "independent_prompts": "prompts are taken as independent (see --cluster): if several are "
    "passages of one document, intervals are too short and q too small",
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
    Column("examples", "VARCHAR", "what has the label: prompts, tokens or items"),
    Column("errors_by", "VARCHAR", "what clusters errors: a field, or prompt; empty: independent"),
    Column("n_clusters", "INTEGER", "clusters of errors", "clusters"),
    Column("notes", "VARCHAR[]", "what is left out, and why"),
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

COMPARISON_KEY: Final = (*KEY, "run_b", "label_b")
"""Columns that identify a comparison."""

PROBE_TESTS: Final = Table(
    "probe_tests",
    "whether the probe of a site of one run serves on the rows of another",
    "lpp-analyze probe STORE --label FIELD --against RUN",
    (*COMPARISON_KEY, "probe", "site_b"),
    (
        *ANALYSIS,
        *shared("run_b"),
        Column("label_b", "VARCHAR", "label of run B; empty: --against, labels of run"),
        Column("probe", "VARCHAR", "site of run whose rows the probe is fitted to"),
        Column("site_b", "VARCHAR", "site of run B whose rows it scores"),
        *shared("depth"),
        Column("is_best", "BOOLEAN", "site whose verdict is that of the comparison"),
        Column("verdict", "VARCHAR", ", ".join(get_args(ChangeVerdict))),
        Column("n_prompts", "INTEGER", "prompts that are tested", "prompts"),
        *columns_of(PROBE_NUMBERS["probe_auroc"], INTERVAL, meaning="of the probe on run"),
        *number_columns("tested_auroc", "of the probe on run B", "probability", INTERVAL),
        *columns_of(PROBE_CHANGES["probe_auroc_change"], INTERVAL),
        *number_columns("reference_flagged", "share above the threshold, reference", "share"),
        *number_columns("flagged", "share above the threshold, probe on run B", "share"),
        *columns_of(PROBE_CHANGES["probe_flagged_change"], INTERVAL),
        *number_columns("flagged_p_value", "of equal shares: McNemar, by cluster", "probability"),
        *number_columns("reference_false_alarms", "of the first class, reference", "share"),
        *number_columns("false_alarms", "of the first class above the threshold, run B", "share"),
        *number_columns("reference_recall", "of the second class, reference", "share"),
        *number_columns("recall", "of the second class above the threshold, run B", "share"),
        *number_columns("margin", "size of a change that does not matter", "1"),
        *number_columns("auroc_floor", "how far a rerun moves the AUROC; null: no rerun", "1"),
        *number_columns("flagged_floor", "how far a rerun moves the share; null: no rerun", "1"),
        Column("notes", "VARCHAR[]", "which prompts are not in both runs, or in both"),
        *shared("flags"),
    ),
    merging=Merging(replaced=COMPARISON_KEY),
)


def tells_more(gain: float | None, q_value: float | None) -> bool:
    """Whether a probe with this gain over the best control, and its q, tells more than that."""
    return gain is not None and gain > 0 and q_value is not None and q_value < Q
