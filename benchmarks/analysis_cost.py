"""What analysing from the store costs beside the bare arithmetic on arrays in memory."""

import itertools
import shutil
from collections.abc import Iterator

import numpy as np

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from lpp.analyze import scan_spectra
from lpp.store import Run
from lpp.store.format.keys import ANALYSIS_KEY

REPEATS = 5


def measure(run: Run) -> Iterator[Ratio]:
    """Ten prefixes of one site in the middle of the model."""
    root = run.path.parent.parent
    site = run.sites[len(run.sites) // 2]
    blocks = list(run.blocks(site))
    rows = np.concatenate([block.values for block in blocks])
    position = np.concatenate([block.position for block in blocks])
    edges = np.append(0, run.plan.prefixes)
    bands = [rows[(position >= a) & (position < b)] for a, b in itertools.pairwise(edges)]

    def ours() -> None:
        shutil.rmtree(root / ANALYSIS_KEY, ignore_errors=True)  # a first call, nothing cached
        frame = scan_spectra(root).filter(run=run.id, site=site).collect()
        assert frame.height == len(run.plan.prefixes)

    def bare() -> None:
        scatter = np.zeros((rows.shape[1], rows.shape[1]))
        for band in bands:
            wide = band.astype(np.float64)
            scatter += wide.T @ wide
            np.linalg.eigvalsh(scatter)

    yield ratio_of_times(
        "spectra of one site, ten prefixes / the bare products and eigensolves in memory",
        timed_pairs(ours, bare, REPEATS),
        bar=1.3,
        bound="decompression, widening to float32, sorting rows into bands",
    )
