"""Tables, charts and sentences about probes, from rows of their tables of the database.

The rows are of one analysis, or of every one of a database, which the report reads.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.analyses import DRAWN, analyses, chart_of_analyses
from lpp.analyze.pages.page import Chart, Frames
from lpp.analyze.pages.table import Declared, Shape, Table
from lpp.analyze.pages.words import (
    Sentence,
    Style,
    code,
    hundredths,
    probability,
    ref,
    run,
    say,
    signed,
)
from lpp.analyze.probes.tables import (
    EMBED,
    INFORMATIVE,
    KEY,
    PROBE_RELIABILITY,
    PROBE_SCORES,
    PROBE_TESTS,
    PROBES,
    tells_more,
)

Row = Mapping[str, Any]

READING: Final = (
    "Every prompt is scored by a probe that was fitted to the other folds. Gain: AUROC or R2 of "
    "the probe minus that of the best control, paired by prompt; q: p-value of the gain after "
    "Benjamini and Hochberg over the sites. p: one-sided, against probes of shuffled labels; their "
    "spread is part of every error. A probe shows that a label can be read from hidden states, not "
    "that the model uses it. The best site of many is partly luck."
)
PERFECT: Final = (
    "An AUROC of 1 has no interval: these data cannot show how far below 1 the true value is."
)
TESTS_READING: Final = (
    "The probe of A scores prompts that it was not fitted to. Reference: the same probe on A "
    "(--against), or B's own probe (--test-on). SCORER DEGRADED: the interval of the change of "
    "AUROC lies below minus the margin. THRESHOLD STALE: the AUROC holds, but the share of prompts "
    "above the threshold changed by more than the margin. NOT SERVING: that share changed by more "
    "than the margin, and the interval of the AUROC is too wide to decide between the two. PASS: "
    "both changes lie within the margin. INCONCLUSIVE: an interval reaches both sides of a margin. "
    "The comparison has the verdict of the site whose probe is best on A; intervals of the other "
    "sites are not corrected for their number."
)
_SAYS: Final = {
    "PASS": "still works on {}",
    "THRESHOLD STALE": "still ranks the prompts on {}, but its threshold no longer fits",
    "SCORER DEGRADED": "predicts the label worse on {}",
    "NOT SERVING": "does not work with its threshold on {}; it is undecided whether it still ranks "
    "the prompts",
    "INCONCLUSIVE": "may or may not work on {}",
}

_OF_PROBE: Final = ("run", "label", "probe", "probe_auroc", "probe_r2")
LABELS: Final = Shape(
    name="probe-labels",
    title="The best site of each label, with 95 % intervals",
    table=PROBES.name,
    key=PROBES.key,
    first=(*_OF_PROBE, "control", "probe_gain", "q_value"),
)
SITES: Final = Shape(
    name="probe-sites",
    title="Probes of sites by depth, with 95 % intervals",
    table=PROBES.name,
    key=PROBES.key,
    first=(*_OF_PROBE, "control", "probe_gain", "q_value", "probe_recall"),
)
CONTROLS: Final = Shape(
    name="probe-controls",
    title="Controls, which read no hidden states",
    table=PROBES.name,
    key=PROBES.key,
    first=(*_OF_PROBE, "p_value", "probe_recall"),
)
RELIABILITY: Final = Shape(
    name="probe-reliability",
    title="Bins of prompts by the probability from the probe of the best site",
    table=PROBE_RELIABILITY.name,
    key=PROBE_RELIABILITY.key,
    first=("run", "label", "bin", "n", "confidence", "accuracy"),
)
MISTAKES: Final = Shape(
    name="probe-mistakes",
    title="Prompts that the probe of the best site is most wrong about",
    table=PROBE_SCORES.name,
    key=("prompt_id",),
    first=("prompt_id", "target", "score", "text_so_far"),
)
TESTS: Final = Shape(
    name="probe-tests",
    title="Probes on another run by depth, with 95 % intervals",
    table=PROBE_TESTS.name,
    key=PROBE_TESTS.key,
    first=("probe", "verdict", "probe_auroc", "probe_auroc_change", "probe_flagged_change"),
)

_RATES: Final = ("flagged", "false_alarms", "recall")
_STYLES: Final[dict[str, Style]] = {
    **dict.fromkeys(("probe_auroc", "probe_r2", "mean_difference", "score"), "hundredths"),
    **dict.fromkeys(("probe_recall", "probe_ece", "confidence", "accuracy"), "hundredths"),
    **dict.fromkeys(("shuffled_mean", "shuffled_high", "random_mean", "random_high"), "hundredths"),
    **dict.fromkeys(("ece_by_chance", "tested_auroc", *_RATES), "hundredths"),
    **dict.fromkeys((f"reference_{name}" for name in _RATES), "hundredths"),
    **dict.fromkeys(("p_value", "gain_p_value", "q_value", "chance_q"), "probability"),
    "flagged_p_value": "probability",
    **dict.fromkeys(("probe_gain", "probe_auroc_change", "probe_flagged_change"), "signed"),
}
_HEADINGS: Final = {
    **{"probe_auroc": "AUROC", "probe_r2": "R2", "probe_gain": "gain", "q_value": "q"},
    **{"probe_recall": "recall at 1 %", "probe_ece": "ECE"},
    **{"p_value": "p", "text_so_far": "text", "target": "label", "mean_difference": "means"},
}
_TEST_HEADINGS: Final = {
    **{"probe_auroc": "AUROC on A", "tested_auroc": "on B", "probe_auroc_change": "change"},
    **{"probe_flagged_change": "flagged", "probe": "site"},
}
_DECLARED: Final[Mapping[str, Mapping[str, Declared]]] = {
    table.name: {column.name: column for column in table.columns}
    for table in (PROBES, PROBE_SCORES, PROBE_RELIABILITY, PROBE_TESTS)
}


def shaped(shape: Shape, frame: pl.DataFrame, **more: Any) -> Table:
    """The table of `shape` with the rows of `frame`, without empty columns. more: as of
    `Shape.of`.
    """
    full = frame.select(column for column in frame if column.null_count() < len(column))
    headings = _TEST_HEADINGS if shape.table == PROBE_TESTS.name else _HEADINGS
    options: dict[str, Any] = {"styles": _STYLES, "labels": headings}
    return shape.of(full, _DECLARED[shape.table], **options | more)


_CHARTS: Final = (
    (
        SITES,
        "probes",
        "probe-depth",
        "Probes by depth",
        "Each site with its 95 % interval. Grey bands: intervals of the controls; a site inside a "
        "band is not significantly better than that control.",
        "probe_depth_chart",
    ),
    (
        RELIABILITY,
        "calibration",
        "probe-reliability",
        "Reliability of probes",
        "The share of the prompts of a bin that are of the class, by the probe's probability.",
        "probe_reliability_chart",
    ),
)


def probe_charts(frames: Frames, tables: Mapping[str, Table], runs: RunStyles) -> Iterator[Chart]:
    """Charts of depth and of reliability, with a panel for each analysis.

    tables: those behind the charts, by name.
    """
    for shape, section, name, title, text, draw in _CHARTS:
        parts = analyses(frames[shape.table], KEY, needed="probe")
        if parts and shape.name in tables:
            yield chart_of_analyses(
                draw,
                parts,
                runs,
                name=name,
                section=section,
                table=tables[shape.name],
                title=title,
                text=text,
            )


def conclusions(probes: pl.DataFrame, tests: pl.DataFrame) -> Iterator[Sentence]:
    """A sentence on each analysis, and on each comparison; of many, on the first `DRAWN`.

    probes, tests: rows of `probes` and of `probe_tests`. Settings are named where they differ.
    """
    # a publication may leave out the best site of an analysis: then nothing is said of the others
    parts = [part for part in analyses(probes, KEY, needed="is_best") if part["is_best"].any()]
    settings = [name for name in KEY[2:] if probes.width and probes[name].n_unique() > 1]
    for part in parts[:DRAWN]:
        values = ", ".join(f"{name} {part[name][0]}" for name in settings if part[name][0] != "")
        yield say(conclusion(part) + (f" Setting: {values}." if values else ""))
    if len(parts) > DRAWN:
        yield say(f"The table has {ref(f'{len(parts) - DRAWN} more analyses', LABELS.name)}.")
    if tests.width:
        for row in tests.filter("is_best").head(DRAWN).iter_rows(named=True):
            yield say(tested(row))


def conclusion(probes: pl.DataFrame) -> str:
    """Which site predicts the label best, and whether a control explains it. probes: the rows of
    one analysis.
    """
    best = probes.row(by_predicate=pl.col("is_best"), named=True)
    control, of, what = best["control"], run(best["run"]), _what(best)
    # embed is a site too, which a publication may leave out
    of_control = [_number(row) for row in probes.filter(probe=control).to_dicts()]
    if "explained" in best["flags"]:
        alone = ref(f"{_name(control)} alone", CONTROLS.name)
        return (
            f"{alone} predicts {what}{''.join(f' with {number}' for number in of_control)}. No "
            f"probe in {of} does better (best: {best['probe']}, {_number(best)}), so the probes "
            f"may read no more than {control}."
        )
    where = ref(best["probe"], SITES.name)
    text = f"In {of}, a probe at {where} predicts {what} with {_number(best)}."
    if not best["chance_q"] < INFORMATIVE:
        return f"{text} That is not significantly better than chance."
    if best["probe_gain"] is None:
        return text
    reaches = "".join(f" reaches {number}" for number in of_control)
    verdict = "is" if tells_more(best["probe_gain"], best["q_value"]) else "is not"
    return (
        f"{text} The best control, {control},{reaches}; the gain of {signed(best['probe_gain'])} "
        f"{verdict} significant (q {probability(best['q_value'])})."
    )


def tested(row: Row) -> str:
    """The verdict of a comparison. row: of `probe_tests`, of the best site."""
    verdict = ref(row["verdict"], TESTS.name)
    return (
        f"{verdict}: the probe of {code(row['label'])} at {row['probe']}, the best site of "
        f"{run(row['run'])}, {_SAYS[row['verdict']].format(run(row['run_b']))}. It flags "
        f"{hundredths(row['flagged'])} of the prompts; the reference flags "
        f"{hundredths(row['reference_flagged'])}."
    )


def _name(control: str) -> str:
    if control == EMBED:
        return "The site embed"
    return {"length": "The length of prompts", "surprisal": "Mean surprisal"}.get(
        control.partition(" ")[0], "A bag of tokens"
    )


def _what(row: Row) -> str:
    classes, field = row["classes"], code(row["label"].partition("=")[0])
    if classes is None:
        return code(row["label"])
    several = f"{len(classes)} classes" if classes[2:] else f"{classes[1]} or {classes[0]}"
    return f"{field} ({several})"


def number_of(row: Row) -> tuple[str, str]:
    """The number of a probe: its column, and what it is called."""
    name = "probe_r2" if row["classes"] is None else "probe_auroc"
    return name, _HEADINGS[name]


def _number(row: Row) -> str:
    name, heading = number_of(row)
    return f"{heading} {hundredths(row[name])}"
