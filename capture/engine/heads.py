"""Store the unembedding of a model once, if the request wants it.

It changes no number and no plan names it, so a problem here never stops a capture: a head that
cannot be stored is left out, and a line says why.
"""

from dataclasses import dataclass
from typing import Final

from lpp.capture.plan.backend import Backend
from lpp.capture.plan.request import CaptureRequest
from lpp.capture.plan.sizes import free_bytes, head_bytes, row_bytes
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.plan import Plan
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Url, place
from lpp.store.shared.heads import commit_head, head_directories
from lpp.store.store import open_if_any
from lpp.store.units import short_bytes

DISK_SHARE: Final = 0.1
"""Largest share of the free disk that a head takes unasked: a store is often of many models."""


@dataclass(frozen=True, kw_only=True)
class KeptHead:
    """What was done with a model's head."""

    lines: tuple[str, ...] = ()
    """For the user."""
    directories: tuple[str, ...] = ()
    """Its directories in the store, relative to the root."""


def missing_head_bytes(root: Url, plan: Plan, request: CaptureRequest) -> int:
    """Approximate bytes of the head that is still to be written into the store at `root`.

    0 if no head is wanted, or if the store has it. The store need not exist yet.
    """
    if _why_not(root, plan, request) is not None:
        return 0
    there = open_if_any(root) is not None and _directories(root, plan)
    return 0 if there else head_bytes(plan)


def keep_head(root: Url, plan: Plan, request: CaptureRequest, backend: Backend) -> KeptHead:
    """Write the head of the plan's model into the store at `root`, unless the store has it.

    Costs a small read if the store has it, and else two passes over the matrix: a fifth of a second
    for 57 MB. Raises MachineError for a full or read-only disk.
    """
    why = _why_not(root, plan, request)
    if why is not None:
        return KeptHead(lines=(f"head: left out {why}",) if why else ())
    try:
        if directories := _directories(root, plan):
            return KeptHead(directories=directories)
        content = backend.head()
        if isinstance(content, str):
            return KeptHead(lines=(f"head: left out ({content})",))
        commit_head(objects_at(root), plan, content)
        directories = _directories(root, plan)
    except FormatError as error:
        if error.kind is not ErrorKind.UNSUPPORTED_VERSION:
            raise
        return KeptHead(lines=("head: left as a newer release of lpp-engine wrote it",))
    matrix = content.matrix
    rows, width = matrix.weight.shape
    size = short_bytes(matrix.nbytes)
    return KeptHead(
        lines=(f"head: {rows:,} x {width:,} {matrix.dtype}, {size}, kept once for this model",),
        directories=directories,
    )


def _directories(root: Url, plan: Plan) -> tuple[str, ...]:
    return head_directories(objects_at(root), plan)


def _why_not(root: Url, plan: Plan, request: CaptureRequest) -> str | None:
    """None if the head is wanted; otherwise why it is left out, or "" if no reason needs to be
    given.
    """
    if request.keep_head == "yes":
        return None
    without_logits = plan.logit_positions == "none"
    if request.keep_head == "no" or "final" not in plan.site_names or without_logits:
        return ""
    size, rows = head_bytes(plan), plan.prompts.tokens * row_bytes(plan)
    free = free_bytes(place(root))
    if free is None or size <= max(rows, int(DISK_SHARE * free)):
        return None
    return (
        f"({short_bytes(size)}; {short_bytes(free)} are free): without it `diff` has no KL and "
        "nothing computes logits; --keep-head yes keeps it"
    )
