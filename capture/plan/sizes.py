"""How much disk and host memory a capture will take.

Tables are not counted: they take a few per cent of the activations.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from lpp.capture.models.device import kind_of
from lpp.capture.plan.batches import tokens_of
from lpp.store.arrays.layout import ITEM_BYTES
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import Plan
from lpp.store.objects.place import Place
from lpp.store.root import nearest_directory
from lpp.store.runs.given import given_dtype
from lpp.store.units import short_bytes

PACKED: Final = 1.49
"""Compression ratio of rows in bfloat16 at every site of a real model."""

PACKED_BLOCKS: Final = 1.45
"""As `PACKED`, of one of its middle blocks: for sites without `embed`, whose rows repeat those of
equal tokens and pack 4-fold."""

PACKED_FLOAT8: Final = 2.3
"""Bytes of rows in bfloat16 over those on disk in float8_e4m3, of the same model: 2.27 to 2.35 in
its blocks."""

SLOTS: Final = 3
"""Shards in memory at once: one is filled, one is compressed, one is flushed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of the rows of a run."""

    rows: int
    """As computed, before compression."""
    packed: int
    """Estimated bytes on disk. A capture that may fit is not refused: if rows compress less than
    estimated and the disk fills up, every committed shard stays."""


def row_bytes(plan: Plan) -> int:
    """Bytes of one token over all sites, as computed."""
    return sum(site.width * ITEM_BYTES[given_dtype(plan, site)] for site in plan.sites)


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


def run_size(plan: Plan) -> Size:
    """The size of the run of `plan`."""
    tokens = plan.prompts.tokens
    return Size(rows=tokens * row_bytes(plan), packed=round(tokens * packed_row_bytes(plan)))


def remaining(plan: Plan, lengths: npt.NDArray[np.int32], todo: Sequence[int]) -> int:
    """Estimated bytes on disk of the shards `todo`. lengths: tokens of each prompt."""
    return round(tokens_of(plan, lengths, todo) * packed_row_bytes(plan))


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

    lengths: tokens of each prompt. The model and the memory of its batches are not included.
    """
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


def format_size(size: Size, free: int | None) -> str:
    """Bytes of a run, then the free disk space, for a user."""
    room = "" if free is None else f"; {short_bytes(free)} free"
    return f"on disk: {short_bytes(size.rows)} (about {short_bytes(size.packed)} packed){room}"


def format_memory(needed: int, available: int | None, device: str) -> str:
    """Needed and available bytes of memory, for a user. device: its kind."""
    room = "" if available is None else f"; {short_bytes(available)} available"
    locked = ", page-locked" if kind_of(device).page_lock else ""
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


def check_room(needed: int, free: int | None, root: Place) -> None:
    """Raise MachineError if a capture does not fit on disk. needed: bytes still to be written."""
    if free is None or needed <= free:
        return
    raise MachineError(
        f"{root}: the capture needs about {short_bytes(needed)} more, and {short_bytes(free)} are "
        "free. Take fewer --sites or --prompts, or --stored-dtype float8_e4m3; or name a --store "
        "on a larger disk.",
        kind=ErrorKind.NO_SPACE,
    )
