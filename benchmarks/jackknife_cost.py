"""What errors cost beside the numbers, and every declared metric beside the paper's three."""

import shutil
from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import store_of
from lpp.analyze import ProfileSettings, analyze, scan_spectra
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
    yield ratio_of_times(
        "every declared metric of one site / the three of the paper",
        timed_pairs(lambda: everything("all"), lambda: everything("paper"), REPEATS),
        bar=4,
        bound="a second eigen-decomposition, and the metrics of rows",
    )
