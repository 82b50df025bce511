"""What the whole grid of settings costs beside one profile, both from the same store."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import store_of
from lpp.analyze import ProfileSettings, SensitivitySettings, analyze
from lpp.analyze.studies.sensitivity import sensitivity
from lpp.store import Run
from lpp.store.format.keys import ANALYSIS_KEY

REPEATS = 3


def measure(run: Run) -> Iterator[Ratio]:
    """Every context and number of prompts of the paper that the run holds, at one site."""
    root = store_of(run)
    one = ProfileSettings(runs=[run.id], sites=[run.sites[-1]])
    context, size = run.plan.context, run.n_prompts
    grid = SensitivitySettings(
        runs=one.runs,
        sites=one.sites,
        contexts=[c for c in (50, 100, 200, 500) if c < context] + [context],
        prompts=[n for n in (10, 100, 500, 1000) if n < size] + [size],
    )

    def settings() -> None:
        _forget(root)
        sensitivity(root, grid)

    def profile() -> None:
        _forget(root)
        analyze(root, one).profiles()

    yield ratio_of_times(
        "the sensitivity grid / one profile, `final`, with errors, nothing kept from before",
        timed_pairs(settings, profile, REPEATS),
        bar=6,
        bound="the eigensolves of its distinct prefixes and numbers of prompts",
    )


def _forget(root: Path) -> None:
    """Make the next analysis a first one."""
    shutil.rmtree(root / ANALYSIS_KEY, ignore_errors=True)
