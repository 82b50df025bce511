"""The charts of the report: the table behind each, and the text that explains it.

On the page a chart is one or more panels, each as wide as its container. A picture has all panels.
A chart without data is replaced by a sentence that names the empty table.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.page import Chart, drawing
from lpp.analyze.questions import Selection
from lpp.analyze.report.answers import Answer, Answers
from lpp.analyze.report.drift_queries import DRIFT
from lpp.analyze.report.queries import (
    DIFFERENCES,
    EIGENVALUES,
    ENTROPY,
    LAYERS,
    PLANS,
    PROFILES,
    TRAINING,
    Query,
    whole,
)
from lpp.analyze.studies.pages.profile_page import profile_chart_of
from lpp.store.errors import LppError

_STEPS: Final = 3
"""Fewest steps for a curve over a training."""

COMPARED: Final = 4
"""Fewest runs for a heat map of every two; fewer runs have a short table."""


def page_styles(answers: Answers) -> RunStyles:
    """Letter, name and colour of every run of the page, for its charts, tables and sentences.

    Letters follow the order of `PLANS`, by id like the rows of every table; runs that occur only in
    other tables come last, and are called by their ids.
    """
    plans = answers[PLANS.name].frame if PLANS.name in answers else pl.DataFrame()
    names: dict[str, str] = dict(plans.select("run", "name").iter_rows()) if plans.width else {}
    styles = RunStyles({run: name or run for run, name in names.items()})
    return styles.including(
        run
        for answer in answers.values()
        for column in ("run", "run_a", "run_b")
        if column in answer.frame.columns
        for run in answer.frame[column].unique()
        if isinstance(run, str)
    )


def charts(answers: Answers, runs: RunStyles | None = None) -> Iterator[Chart]:
    """Every chart, in the order of the page. runs: by default those of `page_styles`.

    Raises MachineError(NO_PACKAGE) without the extra `report`.
    """

    def frame(query: Query) -> pl.DataFrame:
        return answers[whole(query.table).name].frame

    runs = runs or page_styles(answers)
    profiles = frame(PROFILES)
    layers = answers[LAYERS.name].frame
    apart = _apart(profiles, profiles, runs)
    yield profile_chart_of(profiles, answers[PROFILES.name].table(), runs, note=apart)
    differences = answers[DIFFERENCES.name]
    if len(_compared(differences)) >= COMPARED:
        yield Chart(
            "differences",
            "profiles",
            differences.table(),
            "Differences",
            "The run of a row minus the run of a column, in each number of the profile. A dot "
            "marks a difference whose 95 % interval leaves out 0; of twenty true zeros, one is "
            "marked by chance. Pairs without a common setting are empty.",
            drawing("difference_chart", differences.frame, runs=runs),
        )
    checkpoints = answers[TRAINING.name].frame
    if is_training(checkpoints):
        yield Chart(
            "training",
            "training",
            answers[TRAINING.name].table(),
            "Training",
            "A line for each series, from step to step, with 95 % intervals; of checkpoints that "
            "read the same prompts. A white core: a collapsed layer, or one whose first "
            "positions are attention sinks.",
            drawing("training_chart", checkpoints),
        )
    yield Chart(
        "depth",
        "depth",
        answers[LAYERS.name].table(),
        "Ranks by depth",
        "From embedding (0) to the last layer (1), on log axes. A white core: a collapsed "
        "layer, or one whose first positions are attention sinks."
        f"{_second_curve(layers)} An hourglass is narrower in its middle than at both ends."
        f"{_apart(layers, profiles, runs)}",
        drawing("depth_chart", layers, runs=runs),
        opens=DRIFT.name not in answers or answers[DRIFT.name].frame.is_empty(),
    )
    yield Chart(
        "spectrum",
        "depth",
        answers[EIGENVALUES.name].table(),
        "Spectrum",
        "Share of the variance in each eigenvalue, in descending order, both axes logarithmic; "
        "60 points of each run.",
        drawing("spectrum_chart", answers[EIGENVALUES.name].frame, runs=runs),
    )
    yield Chart(
        "entropy",
        "steadiness",
        answers[ENTROPY.name].table(),
        "Entropy by prefix",
        "Mean over prompts of the entropy of the next token, as a share of ln V. Its smallest "
        "value is the entropy floor.",
        drawing("entropy_chart", frame(ENTROPY), runs=runs),
    )


def _drawn(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows that the charts of one setting per run draw."""
    from lpp.analyze.charts.frames import fullest

    return fullest(frame)[0] if frame.width else frame


def _second_curve(layers: pl.DataFrame) -> str:
    """What a second curve of a run is, if there is one."""
    drawn = _drawn(layers)
    if not drawn.width or not (drawn["first_position"] > 0).any():
        return ""
    return " A second curve of a run is without the first positions."


def _apart(frame: pl.DataFrame, profiles: pl.DataFrame, runs: RunStyles) -> str:
    """Which runs of a chart can be compared with each other; empty if all can."""
    drawn = _drawn(frame)
    if drawn.is_empty() or not profiles.width:
        return ""
    setting = ("context", "n_prompts")
    texts = profiles.select("run", *setting, "prompt_set").unique()
    shown = drawn.select("run", *setting).unique().join(texts, on=["run", *setting], how="left")
    groups: dict[tuple[int, int, str | None], set[str]] = {}
    for run, *key in shown.iter_rows():
        groups.setdefault((key[0], key[1], key[2]), set()).add(run)
    if len(groups) == 1:
        return ""
    parts = (
        f"{', '.join(runs.letter(run) for run in runs.order if run in group)} (context {context}, "
        f"{n_prompts} prompts)"
        for (context, n_prompts, _), group in groups.items()
    )
    return (
        " Only runs that read the same texts at the same setting can be compared: "
        f"{'; '.join(sorted(parts))}."
    )


def _compared(differences: Answer) -> set[str]:
    """Runs that some other run can be compared with."""
    frame = differences.frame
    return {*frame["run_a"], *frame["run_b"]} if frame.width else set()


def is_training(checkpoints: pl.DataFrame) -> bool:
    """Whether some series has enough comparable steps for a curve; False without the columns."""
    from lpp.analyze.charts.profiles import training_curves

    if checkpoints.is_empty():
        return False
    return bool((training_curves(checkpoints)["curve"].value_counts()["count"] >= _STEPS).any())


def eigenvalues(url: str, runs: Sequence[str] = ()) -> Answer:
    """Thinned spectra of `final` at the whole prefix, for each run, as the chart shows them.

    runs: ids; none: every run. Only spectra in the analysis cache are read; nothing is computed.
    Empty if the store no longer holds its runs.
    """
    from lpp.analyze.charts.profiles import thinned
    from lpp.analyze.tables.eigenvalues import EIGENVALUES_SCHEMA, eigenvalues_held

    try:
        # incomplete runs are named with their provenance
        selection = Selection(runs=runs or ("*",), sites=("final",))
        frame, _ = eigenvalues_held(url, selection, compute=False)
    except LppError as error:
        return Answer(EIGENVALUES, pl.DataFrame(schema=EIGENVALUES_SCHEMA), str(error).rstrip("."))
    largest = [pl.col(name) == pl.col(name).max().over("run") for name in ("context", "n_prompts")]
    for condition in largest:
        frame = frame.filter(condition)
    return Answer(EIGENVALUES, thinned(frame.sort("run", "rank")))
