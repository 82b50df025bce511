"""What errors cost beside numbers alone and beside float64, and every metric beside three."""

import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from unittest import mock

import polars as pl

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import scratch, store_of
from benchmarks.synthetic import synthetic_run
from lpp.analyze import ProfileSettings, analyze, scan_spectra
from lpp.analyze.engine.executor import LocalExecutor
from lpp.analyze.numerics import replicates
from lpp.analyze.runs.cells import GROUPS
from lpp.store import Run
from lpp.store.format.keys import ANALYSIS_KEY

REPEATS = 3


def measure(run: Run) -> Iterator[Ratio]:
    """Ten prefixes of one site in the middle of the model, nothing cached."""
    root = store_of(run)
    site = run.sites[len(run.sites) // 2]

    def forget() -> None:
        shutil.rmtree(root / ANALYSIS_KEY, ignore_errors=True)

    def column(name: str, groups: int | None) -> pl.DataFrame:
        forget()
        of_site = scan_spectra(root, groups=groups).filter(run=run.id, site=site)
        return of_site.select(name).collect()

    def everything(*metrics: str) -> None:
        forget()
        selection = ProfileSettings(runs=[run.id], sites=[site])
        analyze(root, replace(selection, metrics=metrics, errors="none"))

    for name, bar, bound in (
        ("participation_ratio", 3, "a second read, its products, d x d subtractions"),
        ("effective_rank", 12, "eleven eigen-decompositions for one"),
    ):

        def with_errors(name: str = name) -> None:
            found = column(f"{name}_stderr", GROUPS)
            assert found.to_series().null_count() == 0

        def without(name: str = name) -> None:
            column(name, None)

        yield ratio_of_times(
            f"{name} of one site with its jackknife error, {GROUPS} groups / without",
            timed_pairs(with_errors, without, REPEATS),
            bar=bar,
            bound=bound,
        )
    yield _beside_float64(run, site)
    with scratch() as folder:  # as many tokens, wider rows
        yield _beside_float64(synthetic_run(folder, 20_000, 2048), "final")
    yield ratio_of_times(
        "every declared metric of one site / the three of the paper",
        timed_pairs(lambda: everything("all"), lambda: everything("paper"), REPEATS),
        bar=4,
        bound="a second eigen-decomposition, and the metrics of rows",
    )


def _beside_float64(run: Run, site: str) -> Ratio:
    """CPU seconds of one site, its replicates solved in float32 and all in float64."""
    root, wide = store_of(run), run.site(site).width > 1000
    repeats = 1 if wide else REPEATS  # a minute or two each

    def profile(*, float64: bool = False) -> None:
        shutil.rmtree(root / ANALYSIS_KEY, ignore_errors=True)
        only = mock.patch.object(replicates, "float32_eigenvalues", return_value=None)
        with only if float64 else nullcontext():
            settings = ProfileSettings(runs=[run.id], sites=[site], errors="all")
            analyze(root, settings, executor=LocalExecutor(1))

    return ratio_of_times(
        f"`profile` of one site with errors, d = {run.site(site).width}, CPU seconds / with every "
        "eigenvalue solved in float64",
        timed_pairs(profile, partial(profile, float64=True), repeats, clock=time.process_time),
        bar=0.6 if wide else 0.75,
        bound="products and values, which are float64 on both sides",
    )
