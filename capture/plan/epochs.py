"""When storing rows costs less than computing them again, for training that needs them N times.

The model of cost, in time: storing takes one pass, with the capture's overhead, and then N reads;
computing again takes N passes.

    T_capture + N T_read < N T_pass,    T_capture = CAPTURE_OVERHEAD T_pass

T_pass is the time of the forward passes over all tokens of a run; T_read is that of its bytes on
disk, read and unpacked. The disk wins from the smallest such N on; never if reading takes as long
as computing. What a disk and a card cost, and what training computes beside them, is not counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lpp.capture.plan.sizes import PACKED
from lpp.store.arrays.layout import ITEM_BYTES
from lpp.store.format.plan import Plan, SiteDtype

CAPTURE_OVERHEAD: Final = 1.02
"""Time of a capture over that of its forward passes: benchmarks/README.md, beside other libraries.
"""

READ_BYTES_PER_SECOND: Final = 1e9
"""Bytes on disk that are read and unpacked in a second, unless the user says: assumed. About one
core's pace of unpacking; a bucket or a shared disk may give a tenth, several cores a multiple."""

FLOAT8_BYTES: Final = 2 / 2.33
"""Bytes on disk of a value in float8_e4m3: compressed, with the scale of its row. Measured on rows
of a real model: 2.33 times less than bfloat16 before compression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChoice:
    """Something of a run that could be stored."""

    name: str
    size: int
    """Estimated bytes on disk, after compression."""


def row_choices(plan: Plan, widths: Mapping[str, int]) -> Iterator[StoredChoice]:
    """Rows at all sites of the model, at `final`, and at those of `plan` if they are others; as
    computed and in float8_e4m3. widths: of every site of the model.
    """
    by_name = {"all": [*widths], "final": ["final"]}
    if [*plan.site_names] not in by_name.values():
        by_name["chosen"] = [*plan.site_names]
    dtypes: tuple[SiteDtype, ...] = (plan.stored_dtype, "float8_e4m3")
    for name, sites in by_name.items():
        values = plan.prompts.tokens * sum(widths[site] for site in sites)
        for dtype in dtypes:
            packed = FLOAT8_BYTES if dtype == "float8_e4m3" else ITEM_BYTES[dtype] / PACKED
            yield StoredChoice(name=f"{name} {dtype}", size=round(values * packed))


def epochs_from(pass_seconds: float, read_seconds: float) -> int | None:
    """The fewest epochs at which storing takes less time than computing again; None if it never
    does.

    >>> epochs_from(100, 1), epochs_from(100, 50), epochs_from(100, 100)
    (2, 3, None)
    """
    gain = pass_seconds - read_seconds
    return None if gain <= 0 else int(CAPTURE_OVERHEAD * pass_seconds / gain) + 1
