"""How much disk, for each choice of --keep, and host memory a capture will take.

Tables are not counted: they take a few per cent of the activations or moments.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import numpy as np
import numpy.typing as npt

from lpp.capture.plan.batches import kept_boundaries, tokens_of
from lpp.store.arrays.layout import ITEM_BYTES
from lpp.store.arrays.moments import moments_bytes
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import Keep, Plan
from lpp.store.format.schedule import moment_band_ends
from lpp.store.objects.place import Place
from lpp.store.root import nearest_directory
from lpp.store.units import short_bytes

PACKED: Final = 1.46
"""Compression ratio of rows in bfloat16 at every site of a real model."""

PACKED_BLOCKS: Final = 1.43
"""As `PACKED`, of one of its middle blocks: for sites without `embed`, whose rows repeat those of
equal tokens and pack 4-fold."""

PACKED_FLOAT8: Final = 2.3
"""Bytes of rows in bfloat16 over those on disk in float8_e4m3, of the same model: 2.27 to 2.35 in
its blocks."""

SLOTS: Final = 3
"""Shards in memory at once: one is filled, one is compressed, one is flushed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of one choice."""

    rows: int
    """As computed, before compression."""
    packed_rows: int
    """Estimated bytes of the rows on disk."""
    moments: int
    """Before compression, which saves little."""

    @property
    def packed(self) -> int:
        """Estimated bytes on disk. A capture that may fit is not refused: if rows compress less
        than estimated and the disk fills up, every committed shard stays.
        """
        return self.packed_rows + self.moments


def row_bytes(plan: Plan) -> int:
    """Bytes of one token over all sites, as computed."""
    return sum(site.width for site in plan.sites) * ITEM_BYTES[plan.stored_dtype]


def packed_row_bytes(plan: Plan) -> float:
    """Estimated bytes of one token over all sites, on disk."""
    lossless = PACKED if "embed" in plan.site_names else PACKED_BLOCKS
    return sum(
        site.width * ITEM_BYTES["bfloat16"] / PACKED_FLOAT8
        if dtype == "float8_e4m3"
        else site.width * ITEM_BYTES[dtype] / lossless
        for site in plan.sites
        for dtype in (plan.dtype_of(site),)
    )


def shard_moments_bytes(plan: Plan) -> int:
    """Bytes of the moments of one shard, whether or not the plan keeps them."""
    ends = plan.moment_ends if plan.keeps_moments else moment_band_ends(plan.prefixes)
    widths = [site.width for site in plan.sites]
    return moments_bytes(widths, len(ends), plan.moments_dtype)


def sizes(plan: Plan, lengths: Sequence[int], shard_bytes: int) -> dict[Keep, Size]:
    """The size of the run with each choice of --keep. lengths: tokens of each prompt."""
    of_token, of_shard = row_bytes(plan), shard_moments_bytes(plan)
    rows, packed = (round(plan.prompts.tokens * n) for n in (of_token, packed_row_bytes(plan)))
    by_keep: dict[Keep, Size] = {}
    for keep in get_args(Keep):
        edges = kept_boundaries(lengths, of_token, shard_bytes, keep, of_shard)
        moments = 0 if keep == "rows" else (len(edges) - 1) * of_shard
        of_rows = {"rows": 0, "packed_rows": 0}
        if keep != "moments":
            of_rows = {"rows": rows, "packed_rows": packed}
        by_keep[keep] = Size(**of_rows, moments=moments)
    return by_keep


def remaining(plan: Plan, lengths: npt.NDArray[np.int32], todo: Sequence[int]) -> int:
    """Estimated bytes on disk of the shards `todo`. lengths: tokens of each prompt."""
    rows = tokens_of(plan, lengths, todo) * packed_row_bytes(plan) if plan.keeps_rows else 0
    return round(rows) + (len(todo) * shard_moments_bytes(plan) if plan.keeps_moments else 0)


def head_bytes(plan: Plan) -> int:
    """Bytes of the unembedding matrix; an estimate if `final` is not captured."""
    widths = [site.width for site in plan.sites if site.name == "final"]
    width = widths[0] if widths else plan.model.hidden_size
    return plan.model.logits_width * width * ITEM_BYTES[plan.stored_dtype]


def free_bytes(root: Place) -> int | None:
    """Free bytes on the disk of a store, which may not exist yet; None for a bucket."""
    directory = nearest_directory(root)
    return shutil.disk_usage(directory).free if isinstance(directory, Path) else None


def host_bytes(plan: Plan, lengths: npt.NDArray[np.int32]) -> int:
    """Bytes of host memory for the shard buffers of a capture; pinned memory on a GPU.

    lengths: tokens of each prompt. 0 for a plan without rows. The model and the memory of its
    batches are not included.
    """
    if not plan.keeps_rows:
        return 0
    ends = np.append(0, np.cumsum(lengths, dtype=np.int64))
    largest = int(np.diff(ends[list(plan.shards)]).max())
    return min(SLOTS, plan.n_shards) * largest * row_bytes(plan)


def available_memory() -> int | None:
    """Bytes of memory available without swapping; None where the system does not report it."""
    try:
        match = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
    except OSError:
        return None
    return None if match is None else int(match[1]) << 10


def format_sizes(found: dict[Keep, Size], keep: Keep, free: int | None) -> list[str]:
    """The size of each choice of --keep, with * at the chosen one; then the free disk space."""
    choices = []
    for name, size in found.items():
        packed = f" (about {short_bytes(size.packed)} packed)" if size.rows else ""
        mark = "*" if name == keep else ""
        choices.append(f"{name}{mark} {short_bytes(size.rows + size.moments)}{packed}")
    room = "" if free is None else f"; {short_bytes(free)} free"
    return [f"on disk: {', '.join(choices)}{room}", "*: chosen with --keep"]


def format_memory(needed: int, available: int | None, device: str) -> str:
    """Needed and available bytes of memory, for a user. device: its kind."""
    room = "" if available is None else f"; {short_bytes(available)} available"
    locked = ", page-locked" if device == "cuda" else ""
    return f"in memory: {short_bytes(needed)} for shard buffers{locked}{room}"


def check_memory(needed: int, available: int | None) -> None:
    """Raise MachineError if the shard buffers do not fit into memory. needed: of `host_bytes`."""
    if available is None or needed <= available:
        return
    raise MachineError(
        f"the shard buffers need {short_bytes(needed)} of memory, and {short_bytes(available)} "
        "are available. Capture with a smaller --shard-mib and --batch-tokens, or fewer --sites.",
        kind=ErrorKind.NO_MEMORY,
    )


def check_room(
    found: dict[Keep, Size], keep: Keep, needed: int, free: int | None, root: Place
) -> None:
    """Raise MachineError if a capture does not fit on disk. needed: bytes still to be written."""
    if free is None or needed <= free:
        return
    fitting = [name for name, size in found.items() if name != keep and size.packed <= free]
    best = min(fitting, key=lambda name: found[name].packed, default=None)
    advice = (
        f"--keep {best} would take about {short_bytes(found[best].packed)}"
        if best is not None
        else "No other --keep fits either; take fewer --sites or --prompts"
    )
    raise MachineError(
        f"{root}: --keep {keep} needs about {short_bytes(needed)} more, and {short_bytes(free)} "
        f"are free. {advice}; or name a --store on a larger disk.",
        kind=ErrorKind.NO_SPACE,
    )
