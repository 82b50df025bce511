"""What drift costs: of predictions beside the products that it needs, of sites beside reading.

Of predictions both sides multiply the same synthetic rows of `final` of two models with their
unembeddings, a tile of rows at a time, on one thread, in CPU seconds. Ours rounds the logits and
reduces them to numbers of each token; the other drops them. NumPy multiplies in float32; where
torch is installed its bfloat16 products are measured as well.

Of sites both sides read the same rows of the demo's model and of its rounded copy, a block of both
runs at a time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import store_of
from lpp.analyze import ProfileSettings, analyze
from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.sites import common_sites, site_drift
from lpp.analyze.logits.divergences import EVERYTHING
from lpp.analyze.logits.products import NUMPY, one_thread_each, place_of, products
from lpp.analyze.logits.tiles import TILE_ROWS, rows_drift
from lpp.analyze.numerics.cka import BLOCK_ROWS
from lpp.analyze.numerics.moments import Rows
from lpp.analyze.quantities.drift import OF_ROWS, RANK_CHANGES, SITE_CHANGES
from lpp.analyze.questions import ErrorSites
from lpp.analyze.runs.rows.side_by_side import in_step
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.shared.logits import Head, HeadContent
from lpp.store.shared.matrices import Matrix

TOKENS: Final = 2_000
VOCABULARY: Final = 49_152
WIDTH: Final = 576
REPEATS: Final = 3


def measure(tokens: int = TOKENS, vocabulary: int = VOCABULARY) -> Iterator[Ratio]:
    """Two ratios for each place where products can be taken here."""
    rng = np.random.default_rng(0)
    heads = [_head(rng, vocabulary) for _ in range(2)]
    rows = [rng.standard_normal((tokens, WIDTH), np.float32) for _ in range(2)]
    shape = f"{tokens:,} tokens, d = {WIDTH}, V = {vocabulary:,}"
    for place in dict.fromkeys((NUMPY, place_of("bfloat16"))):
        made = [products(head, place) for head in heads]
        bare = _bare(heads, rows, place)
        dtype = "float32 by NumPy" if place == NUMPY else f"bfloat16 by torch on {place}"
        for what, only, bar in (
            ("exact KL one way and flips", ("kl", "flip"), 1.6),
            ("everything of the predictions", tuple(EVERYTHING), 2.5),
        ):
            ours = partial(rows_drift, [[some] for some in rows], made, vocabulary, only, jobs=1)
            yield ratio_of_times(
                f"{what}, {shape}, CPU seconds / of the two bare products in {dtype}",
                timed_pairs(ours, bare, REPEATS, clock=time.process_time),
                bar=bar,
            )


def of_sites(pair: Pair) -> Iterator[Ratio]:
    """Means over tokens alone, with CKA and ranks, and everything with the default errors.

    CKA and ranks are measured with nothing kept, and with what a profile keeps.
    pair: runs of all sites.
    """
    sites = common_sites(pair)
    reading = partial(_read, pair, sites)
    rows, ranks = [*OF_ROWS], [*OF_ROWS, "cka", "overlap", *RANK_CHANGES]
    choices: list[tuple[str, Sequence[str], ErrorSites, Callable[[Path], bool]]] = [
        ("distance and cosine", rows, "none", _is_any),
        ("distance, cosine, CKA and ranks after a profile", ranks, "none", _is_drift),
        ("distance, cosine, CKA and ranks, nothing kept,", ranks, "none", _is_any),
        ("everything, with errors at final, nothing kept,", [*SITE_CHANGES], "final", _is_any),
    ]
    for what, only, errors, gone in choices:
        ours = partial(_computed, pair, only, errors, gone)
        if gone is _is_drift:
            yield _beside_earlier_profile(pair, sites)
        yield ratio_of_times(
            f"{what} of {len(sites)} sites, {pair.n_tokens():,} tokens, CPU seconds / of reading "
            "the rows of both runs",
            timed_pairs(ours, reading, REPEATS, clock=time.process_time),
            bar=8 if gone is _is_drift else 2,
            bound="d^2 multiply-adds a token in float64, and d^2 / 2 for each run that has no "
            "profile",
        )


def _beside_earlier_profile(pair: Pair, sites: Sequence[str]) -> Ratio:
    """`diff` after a profile, and after one that kept no leading eigenvectors, as until 0.2.0."""
    root = store_of(pair.a.run)
    analyze(root, ProfileSettings(runs=[run.id for run in pair.runs]))
    ours, earlier = (
        partial(_computed, pair, [*SITE_CHANGES], "final", gone)
        for gone in (_is_drift, lambda path: _is_drift(path) or path.name.startswith("leading-"))
    )
    return ratio_of_times(
        f"CKA, ranks, everything of {len(sites)} sites after a profile, CPU seconds / after one "
        "that kept no leading eigenvectors",
        timed_pairs(ours, earlier, REPEATS, clock=time.process_time),
        bar=0.6,
        bound="d^2 multiply-adds a token in float64",
    )


def _is_any(path: Path) -> bool:
    return True


def _is_drift(path: Path) -> bool:
    return path.parts[-3].startswith("drift-")


def _computed(
    pair: Pair, only: Sequence[str], errors: ErrorSites, gone: Callable[[Path], bool]
) -> None:
    """`site_drift`. gone: the kept files that are removed before."""
    for path in (store_of(pair.a.run) / ANALYSIS_KEY).rglob("*.arrow"):
        if gone(path):
            path.unlink()
    site_drift(pair, only=only, errors=errors, jobs=1)


def _read(pair: Pair, sites: Sequence[str]) -> None:
    """The rows of both runs in step, as `site_drift` reads them."""
    for site in sites:
        sources = [(view.run, site) for view in (pair.a, pair.b)]
        prompts = range(pair.n_prompts)
        for _ in in_step(
            sources, prompts, block_rows=BLOCK_ROWS, excluded=pair.excluded, dtype="stored"
        ):
            pass


def _head(rng: np.random.Generator, vocabulary: int) -> Head:
    weight = rng.standard_normal((vocabulary, WIDTH), np.float32) / 16
    bits = (weight.view(np.uint32) >> 16).astype(np.uint16)
    return Head(HeadContent(matrix=Matrix(dtype="bfloat16", weight=bits)))


def _bare(heads: Sequence[Head], rows: Sequence[Rows], place: str) -> Callable[[], None]:
    """The products of both models, in the memory of a tile."""
    n, vocabulary = min(TILE_ROWS, len(rows[0])), heads[0].vocabulary
    tiles = [range(start, min(start + n, len(rows[0]))) for start in range(0, len(rows[0]), n)]
    memory = np.empty((n, vocabulary), np.float32)
    tensors = [
        [torch.from_numpy(values).to(place, torch.bfloat16) for values in (some, head.weight)]
        for some, head in zip(rows, heads, strict=True)
        if place != NUMPY
    ]

    def by_numpy() -> None:
        for tile in tiles:
            for head, some in zip(heads, rows, strict=True):
                part = some[tile.start : tile.stop]
                np.matmul(part, head.weight.T, out=memory[: len(part)])

    def by_torch() -> None:
        for tile in tiles:
            for some, weight in tensors:
                torch.nn.functional.linear(some[tile.start : tile.stop], weight)

    def both() -> None:
        with one_thread_each(), torch.inference_mode():
            (by_numpy if place == NUMPY else by_torch)()

    return both
