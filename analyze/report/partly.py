"""What some runs of the page lack and others have: a curve that was not computed shows nothing."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lpp.analyze.pages.page import Origin, RunOrigin
from lpp.analyze.pages.words import Code, Part, Run, Sentence
from lpp.analyze.report.answers import Answers, corpora
from lpp.analyze.report.drift_queries import DRIFT
from lpp.analyze.report.not_computed import Remedy
from lpp.analyze.report.queries import LAYERS

NAMED: Final = 4
"""Most runs named in one sentence."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers that some runs lack."""

    what: str
    runs: tuple[str, ...]
    """The runs that lack the numbers."""
    command: str
    """The command that computes the numbers; STORE stands for the store."""

    @property
    def remedy(self) -> Remedy:
        """The entry in the page's box of numbers that were not computed."""
        count = len(self.runs)
        return Remedy(f"{self.what} of {count} run{'s' * (count > 1)}", self.command)

    def sentence(self, url: str) -> Sentence:
        """The sentence for the section that shows the numbers of the other runs."""
        named = self.runs[:NAMED]
        parts: list[Part] = []
        for k, run in enumerate(named):
            parts += [", "] * (k > 0) + [Run(run)]
        if more := len(self.runs) - len(named):
            parts.append(f" and {more} more")
        lack = "lacks" if len(self.runs) == 1 else "lack"
        command = self.command.replace("STORE", shlex.quote(url), 1)
        what = f"{self.what[0].lower()}{self.what[1:]}"
        return (*parts, f" {lack} {what}: not computed. To compute: ", Code(command), ".")


def depth_gaps(answers: Answers, source: Origin) -> Iterator[Gap]:
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
            yield Gap(
                f"Ranks by depth{without}",
                lacking,
                f"lpp-analyze layers STORE{skip} --run {_listed(lacking)}",
            )


def drift_gaps(answers: Answers, source: Origin) -> Iterator[Gap]:
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
            yield Gap(
                "A comparison with a run that read the same prompts",
                lacking,
                f"lpp-analyze diff STORE{against} {words}",
            )


def _token_ids(run: RunOrigin) -> str:
    return dict(run.facts).get("token ids", "")


def _listed(runs: Sequence[str]) -> str:
    return shlex.quote(",".join(runs))
