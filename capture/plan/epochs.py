"""When storing rows costs less than computing them again, for training that needs them N times.

The model of cost, in time: storing takes one pass, with the capture's overhead, and then N reads;
computing again takes N passes.

    T_capture + N T_read < N T_pass,    T_capture = CAPTURE_OVERHEAD T_pass

T_pass is the time of the forward passes over all tokens of a run; T_read is that of its bytes on
disk, read and unpacked. The disk wins from the smallest such N on; never if reading takes as long
as computing. What a disk and a card cost, and what training computes beside them, is not counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from lpp.capture.plan.sizes import packed_row_bytes
from lpp.store.format.plan import Plan, SiteDtype, SiteSpec

CAPTURE_OVERHEAD: Final = 1.02
"""Time of a capture over that of its forward passes: benchmarks/README.md, beside other libraries.
"""

READ_BYTES_PER_SECOND: Final = 1e9
"""Bytes on disk that are read and unpacked in a second: assumed. About one
core's pace of unpacking; a bucket or a shared disk may give a tenth, several cores a multiple."""

CHOICES: Final[tuple[SiteDtype | None, ...]] = (None, "float8_e4m3")
"""Number types that rows could be stored in; None: as computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChoice:
    """Something of a run that could be stored."""

    name: str
    size: int
    """Estimated bytes on disk, after compression."""


def row_choices(plan: Plan, every_site: Sequence[SiteSpec]) -> Iterator[StoredChoice]:
    """Rows at all sites of the model, at `final`, and at those of `plan` if they are others, each
    in every type of `CHOICES`. every_site: of the model.
    """
    by_name = {"all": every_site, "final": [s for s in every_site if s.name == "final"]}
    if [*plan.site_names] not in [[s.name for s in sites] for sites in by_name.values()]:
        by_name["chosen"] = plan.sites
    for name, sites in by_name.items():
        for dtype in CHOICES:
            own = (s if s.convention == "router" else replace(s, dtype=dtype) for s in sites)
            stored = replace(plan, sites=tuple(own))
            size = round(plan.prompts.tokens * packed_row_bytes(stored))
            yield StoredChoice(name=f"{name} {dtype or plan.stored_dtype}", size=size)


def epochs_from(pass_seconds: float, read_seconds: float) -> int | None:
    """The fewest epochs at which storing takes less time than computing again; None if it never
    does.

    >>> epochs_from(100, 1), epochs_from(100, 50), epochs_from(100, 100)
    (2, 3, None)
    """
    gain = pass_seconds - read_seconds
    return None if gain <= 0 else int(CAPTURE_OVERHEAD * pass_seconds / gain) + 1
