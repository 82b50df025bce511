"""Remedies for what some runs of the page lack and others have."""

import shlex
from collections.abc import Iterator

from lpp.analyze.pages.page import Origin, RunOrigin
from lpp.analyze.report.answers import Answers, corpora
from lpp.analyze.report.drift_queries import DRIFT
from lpp.analyze.report.not_computed import Remedy
from lpp.analyze.report.queries import LAYERS
from lpp.store.units import counted


def depth_gaps(answers: Answers, source: Origin) -> Iterator[Remedy]:
    """Curves by depth that one run has at all its sites and others do not."""
    frame = answers[LAYERS.name].frame
    if not frame.width:
        return
    on_corpora = corpora(answers)
    runs = [run for run in source.runs if len(run.sites) > 1 and run.run in on_corpora]
    for first in frame["first_position"].unique().sort():
        rows = frame.filter(first_position=first).group_by("run").agg("site")
        sites_of = {run: {*sites} for run, sites in rows.iter_rows()}
        lacking = tuple(run.run for run in runs if not {*run.sites} <= sites_of.get(run.run, set()))
        if lacking and len(lacking) < len(runs):
            without = f" without the first {first} positions" if first else ""
            skip = f" --skip-first {first}" if first else ""
            yield Remedy(
                f"Ranks by depth{without} of {counted(len(lacking), 'run')}",
                f"lpp-analyze layers STORE {shlex.join(lacking)}{skip}",
            )


def drift_gaps(answers: Answers, source: Origin) -> Iterator[Remedy]:
    """Runs that were compared with no other, of those that read the token ids of a compared run."""
    frame = answers[DRIFT.name].frame
    if frame.is_empty():
        return
    compared = {*frame["run_a"], *frame["run_b"]}
    for base in frame["run_a"].unique().sort():
        ids = {_token_ids(run) for run in source.runs if run.run == base} - {""}
        lacking = tuple(
            run.run
            for run in source.runs
            if run.run not in compared and _token_ids(run) in ids and run.problem is None
        )
        compared |= {*lacking}  # named once
        if lacking:
            against = " --against" if len(lacking) > 1 else ""
            words = shlex.join([base, *lacking])
            yield Remedy(
                f"A comparison of {counted(len(lacking), 'run')}",
                f"lpp-analyze diff STORE{against} {words}",
            )


def _token_ids(run: RunOrigin) -> str:
    return dict(run.facts).get("token ids", "")
