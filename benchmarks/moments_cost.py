"""What keeping moments costs and saves beside keeping rows: disk, capture, analysis.

At d = 576 on the packaged model; at d = 4,096 the accumulator, the store and the analysis alone,
on synthetic rows in bfloat16, one site. Moments take the same room whatever the corpus, so disk is
told for a million tokens: moments as they lie, rows as they pack here, or before they are packed
where they are synthetic, whose mantissas hardly pack.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from benchmarks.setting import capture, prepared, store_of
from benchmarks.storage import bfloat16_rows, rows_on_disk
from benchmarks.synthetic import one_batch, synthetic_run
from lpp.analyze import scan_spectra
from lpp.analyze.engine import stored_moments
from lpp.capture.backends.batch_rows import as_tensor
from lpp.capture.backends.moments import ShardMoments
from lpp.capture.engine.prepare import Prepared
from lpp.capture.plan.backend import Outputs
from lpp.store import Run
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import site_array
from lpp.store.arrays.moments import moments_bytes, scatter_array, scatter_rows
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.format.plan import Keep, SiteSpec
from lpp.store.format.schedule import moment_band_ends, prefix_schedule

PROMPTS = 100
SITES = ("block.15", "final")
REPEATS = 2
MILLION = 1_000_000
WIDE = 4096
SHARDS = 10
"""As few as a run that keeps moments has."""
WIDE_PROMPTS, WIDE_CONTEXT = 10, 500
"""Of a shard at d = 4,096: far fewer rows than moments are kept for, as many as fit in minutes."""


def measure(
    folder: Path, prompts: int = PROMPTS, wide: int = WIDE, repeats: int = REPEATS
) -> Iterator[Ratio]:
    """folder: room for a few stores. prompts, wide, repeats: smaller ones to try it out."""
    ready = prepared(prompts, sites=SITES, keep="both")
    kept: dict[str, Prepared] = {keep: _keeping(ready, keep) for keep in get_args(Keep)}
    names = (folder / f"moments-{number}" for number in range(1_000))

    def captured(keep: str) -> Run:
        return capture(kept[keep], next(names))

    rows, both = captured("rows"), captured("both")
    yield _disk(
        f"packed rows, a million tokens, {len(SITES)} sites of d = 576",
        kept["moments"].plan.sites,
        rows_on_disk(rows) / rows.plan.prompts.tokens * MILLION,
        bar=0.2,
    )
    final = SiteSpec(name="final", convention="post_norm", width=wide)
    yield _disk(
        f"rows before packing, a million tokens, one site of d = {wide:,}",
        [final],
        2 * wide * MILLION,
        bar=1.0,
    )
    yield ratio_of_times(
        f"capture that keeps moments / rows, {len(SITES)} sites of d = 576",
        timed_pairs(lambda: captured("moments"), lambda: captured("rows"), repeats),
        bar=1.2,
        bound="ten small shards of matrices for a corpus that is smaller as rows",
    )
    for groups in (None, 10):
        yield _analysis(both, groups, repeats, f"d = {both.plan.sites[-1].width}")
    one = synthetic_run(
        *(next(names), SHARDS * WIDE_PROMPTS * WIDE_CONTEXT, wide),
        per_shard=WIDE_PROMPTS,
        length=WIDE_CONTEXT,
        keep="both",
    )
    yield _analysis(one, None, repeats, f"d = {wide:,}, one site of synthetic rows")
    yield _wide(one, repeats)


def _keeping(ready: Prepared, keep: Keep) -> Prepared:
    """The same plan, shards and model, with another choice of what is kept."""
    ends = () if keep == "rows" else ready.plan.band_ends
    plan = replace(ready.plan, keep=keep, band_ends=ends)
    return replace(ready, plan=plan)


def _disk(what: str, sites: Sequence[SiteSpec], theirs: float, *, bar: float) -> Ratio:
    """Bytes on disk of the moments of ten shards, beside `theirs` of rows."""
    bands = len(moment_band_ends(prefix_schedule(WIDE_CONTEXT)))
    ours = SHARDS * moments_bytes([site.width for site in sites], bands, "float64")
    return ratio_once(
        f"disk of moments / {what}",
        f"{ours / 1e6:,.0f} MB",
        f"{theirs / 1e6:,.0f} MB",
        ours / theirs,
        bar=bar,
        bound="ten groups of thirteen bands",
    )


def _analysis(run: Run, groups: int | None, repeats: int, width: str) -> Ratio:
    """Participation ratios, which cost no eigensolve, of one site from either."""
    root = store_of(run)
    columns = ["participation_ratio", *(["participation_ratio_stderr"] if groups else [])]

    def analysed(limit: float) -> None:
        stored_moments.PRODUCT_ROWS = limit  # type: ignore[assignment, misc]
        shutil.rmtree(root / ANALYSIS_KEY, ignore_errors=True)
        frame = scan_spectra(root, groups=groups).filter(site="final").select(columns).collect()
        assert frame.null_count().sum_horizontal().item() == 0

    limit = stored_moments.PRODUCT_ROWS
    try:
        times = timed_pairs(lambda: analysed(0.0), lambda: analysed(float("inf")), repeats)
    finally:
        stored_moments.PRODUCT_ROWS = limit  # type: ignore[misc]
    what = "with errors, " if groups else ""
    return ratio_of_times(
        f"ranks from moments / from rows, {what}{run.plan.prompts.tokens:,} tokens, {width}",
        times,
        bar=1.0,
        bound="the matrices of each shard, for few rows",
    )


def _wide(run: Run, repeats: int) -> Ratio:
    """One site of one shard: accumulated, packed and encoded, beside its rows encoded."""
    plan, site = run.plan, run.plan.sites[0]
    bits = bfloat16_rows(run, site.name, prompts=run.shards[0].end_prompt)
    batch = one_batch(plan, 0, np.zeros(len(bits), np.int32))
    rows = {site.name: as_tensor(bits)}
    moments = ShardMoments(Outputs.of(plan), {site.name: site.width})

    def accumulated() -> None:
        moments.begin()
        moments.add(batch, rows, [])
        encode_array(scatter_array(site, plan), scatter_rows(site, plan, moments[site.name]))

    def rows_encoded() -> None:
        encode_array(site_array(site, "bfloat16", len(bits)), bits)

    return ratio_of_times(
        f"moments of {len(bits):,} synthetic rows of d = {site.width:,}, accumulated and encoded / "
        "the rows encoded",
        timed_pairs(accumulated, rows_encoded, repeats),
        bar=100,
        bound="d multiply-adds in float64 a value, on one or two cores; a GPU has hundreds",
    )
