"""What keeping moments costs and saves beside keeping rows: disk, capture, analysis.

At d = 576 on the packaged model; at d = 4,096 the accumulator and the store alone, on synthetic
rows in bfloat16, one site. Moments take the same room whatever the corpus, so disk is told for a
million tokens: rows as they pack here, moments as they lie.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from benchmarks.setting import capture, prepared
from benchmarks.storage import rows_on_disk
from lpp.analyze import scan_spectra, stored_moments
from lpp.capture.backend import Batch, Captured
from lpp.capture.moments import ShardMoments
from lpp.capture.planning import Prepared
from lpp.store import Run
from lpp.store.hidden import encode_site
from lpp.store.keys import ANALYSIS_KEY
from lpp.store.moments import encode_scatters, moments_bytes
from lpp.store.plan import Keep, Plan, SiteSpec
from lpp.store.schedule import prefix_schedule

PROMPTS = 100
SITES = ("block.15", "final")
REPEATS = 2
MILLION = 1_000_000
WIDE = 4096
WIDE_PROMPTS, WIDE_CONTEXT = 20, 500
"""Of a shard at d = 4,096: as many rows as are worth one, for once not ten times its moments."""


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
    yield _disk(rows, kept["moments"].plan)
    yield ratio_of_times(
        f"capture that keeps moments / rows, {len(SITES)} sites of d = 576",
        timed_pairs(lambda: captured("moments"), lambda: captured("rows"), repeats),
        bar=1.2,
        bound="ten small shards of matrices for a corpus that is smaller as rows",
    )
    for groups in (None, 10):
        yield _analysis(both, groups, repeats)
    yield _wide(kept["moments"], wide, repeats)


def _keeping(ready: Prepared, keep: Keep) -> Prepared:
    """The same plan, shards and model, with another choice of what is kept."""
    plan = replace(ready.plan, keep=keep)
    backend = ready.opened.backend(plan.site_names, plan.stored_dtype, keep)
    return replace(ready, plan=plan, backend=backend)


def _disk(rows: Run, plan: Plan) -> Ratio:
    """Bytes on disk of a million tokens: by their rate here, and by the size of ten shards."""
    ours = 10 * moments_bytes([s.width for s in plan.sites], len(plan.prefixes), "float64")
    theirs = rows_on_disk(rows) / plan.prompts.tokens * MILLION
    return ratio_once(
        f"disk of moments / packed rows, a million tokens, {len(SITES)} sites of d = 576",
        f"{ours / 1e6:,.0f} MB",
        f"{theirs / 1e6:,.0f} MB",
        ours / theirs,
        bar=0.2,
        bound="ten groups of ten bands",
    )


def _analysis(run: Run, groups: int | None, repeats: int) -> Ratio:
    """Participation ratios, which cost no eigensolve, of one site from either."""
    root = run.path.parent.parent
    columns = ["participation_ratio", *(["participation_ratio_stderr"] if groups else [])]

    def analysed(limit: float) -> None:
        stored_moments.PRODUCT_ROWS = limit  # type: ignore[misc]
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
        f"ranks from moments / from rows, {what}{run.plan.prompts.tokens:,} tokens, d = 576",
        times,
        bar=1.0,
        bound="the matrices of ten shards, for few rows",
    )


def _wide(ready: Prepared, width: int, repeats: int) -> Ratio:
    """One site of one shard: accumulated, packed and encoded, beside its rows encoded."""
    site = SiteSpec(name="final", convention="post_norm", width=width)
    plan = replace(
        ready.plan,
        sites=(site,),
        stored_dtype="bfloat16",
        context=WIDE_CONTEXT,
        prefixes=prefix_schedule(WIDE_CONTEXT),
    )
    generator = torch.Generator().manual_seed(0)
    shape = (WIDE_PROMPTS * WIDE_CONTEXT, width)
    rows = torch.randn(shape, generator=generator, dtype=torch.float32).to(torch.bfloat16)
    batch = Batch(
        shard=0,
        prompt_ids=tuple(range(WIDE_PROMPTS)),
        lengths=(WIDE_CONTEXT,) * WIDE_PROMPTS,
        token_ids=np.zeros(len(rows), np.int32),
        asked=np.zeros(0, np.int64),
    )
    captured = Captured(batch=batch, hidden={}, statistics={}, on_device={"final": rows})
    moments = ShardMoments(plan)

    def accumulated() -> None:
        moments.begin()
        moments.add(captured, [])
        encode_scatters(site, plan, moments["final"])

    bits = rows.view(torch.uint16).numpy()
    return ratio_of_times(
        f"moments of {len(rows):,} synthetic rows of d = {width:,}, accumulated and encoded / "
        "the rows encoded",
        timed_pairs(accumulated, lambda: encode_site(site, bits, "bfloat16"), repeats),
        bar=100,
        bound="d multiply-adds in float64 a value, on one or two cores; a GPU has hundreds",
    )
