"""What was set aside, and why, SPEC.md section 5: prompts of a shard, and texts of a corpus.

A prompt that a shard sets aside keeps its rows, so that the order of rows depends on the plan
alone; readers leave them out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from lpp.store.format.tables import STATISTICS

NOT_FINITE: Final = "not_finite"
OUT_OF_MEMORY: Final = "out_of_memory"
FAILED: Final = "failed"
"""The program that collected the rows has none, and says why in words."""

IN_LOGITS: Final = "logits"
"""The site of what is not finite in the statistics of the logits alone."""

QUARANTINE_SCHEMA: Final = pa.schema(
    [
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("site", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""One row per prompt that a shard set aside, by `prompt_id`."""

TEXTS_SCHEMA: Final = pa.schema(
    [
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""One row per text of the corpus that was set aside before there were prompts."""


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """One prompt of a shard whose rows mean nothing."""

    prompt_id: int
    reason: str
    """`not_finite`, `out_of_memory` or `failed`."""
    site: str | None
    """The first captured site in depth order that is not finite; `logits`; None if it is another
    reason."""
    position: int | None
    """The first token there that is not finite."""
    detail: str
    """In words."""


@dataclass(frozen=True, kw_only=True)
class TextSetAside:
    """One text of a corpus that became no prompt."""

    source_row: int
    reason: str
    """One of those in SPEC.md section 5, such as `empty` or `no_tokens`."""
    detail: str


def quarantine_table(prompts: Iterable[SetAside]) -> pa.Table:
    """(n, 5), `QUARANTINE_SCHEMA`, by prompt."""
    return _table(sorted(prompts, key=lambda prompt: prompt.prompt_id), QUARANTINE_SCHEMA)


def texts_table(texts: Iterable[TextSetAside]) -> pa.Table:
    """(n, 3), `TEXTS_SCHEMA`, by row of the corpus."""
    return _table(sorted(texts, key=lambda text: text.source_row), TEXTS_SCHEMA)


def _table(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*map(astuple, rows), strict=True)) or [()] * len(schema)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def quarantine_problems(quarantine: pa.Table, tokens: pa.Table, first: int, end: int) -> list[str]:
    """Every reason `quarantine` does not fit a shard of prompts `first <= id < end`."""
    ids = quarantine["prompt_id"].to_numpy()
    problems = []
    if len(ids) and not (first <= ids.min() <= ids.max() < end and (np.diff(ids) > 0).all()):
        problems.append(f"prompt_id should ascend within prompts {first} to {end - 1}")
    theirs = tokens.filter(pa.array(np.isin(tokens["prompt_id"].to_numpy(), ids)))
    if any(theirs[name].null_count < theirs.num_rows for name in STATISTICS):
        problems.append("statistics of prompts that are set aside should be null")
    return problems


@dataclass(frozen=True, kw_only=True)
class QuarantineSummary:
    """What a run has set aside, for its closing lines and its status."""

    prompts: int = 0
    """Set aside at capture."""
    committed: int = 0
    """Prompts that are committed."""
    not_finite: int = 0
    first_site: str | None = None
    """Where what is not finite begins in depth, over all prompts."""
    out_of_memory: int = 0
    failed: int = 0
    """Prompts of which the program that collected the rows has none."""
    texts: Mapping[str, int] | None = None
    """Texts of the corpus that were set aside, by reason."""

    @property
    def hopeless(self) -> bool:
        """Whether no prompt is left that is finite."""
        return 0 < self.committed == self.not_finite

    def lines(self) -> list[str]:
        """Lines for the user; none if nothing was set aside."""
        lines = []
        if self.prompts:
            lines.append(f"{self.prompts} of {self.committed} prompts are set aside:")
        if self.not_finite:
            where = "the logits" if self.first_site == IN_LOGITS else self.first_site
            lines.append(f"  {self.not_finite} hold NaN or infinities, which begin at {where}")
        if self.out_of_memory:
            lines.append(f"  {self.out_of_memory} ran out of memory even alone")
        if self.failed:
            lines.append(f"  {self.failed} failed in the program that collected the rows")
        if self.texts:
            listed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.texts.items()))
            lines.append(f"texts of the corpus that were set aside: {listed}")
        return lines


NOTHING: Final = QuarantineSummary()
"""The summary of a run that has set nothing aside."""


def summarise(
    prompts: pa.Table, texts: pa.Table, sites: Sequence[str], committed: int
) -> QuarantineSummary:
    """Counts of both tables. sites: captured, in depth order. committed: prompts there are."""
    order = {site: depth for depth, site in enumerate((*sites, IN_LOGITS))}
    rows = prompts.to_pylist()
    broken = [row["site"] for row in rows if row["reason"] == NOT_FINITE]
    reasons = texts["reason"].to_pylist()
    return QuarantineSummary(
        prompts=len(rows),
        committed=committed,
        not_finite=len(broken),
        first_site=min(broken, key=lambda site: order.get(site, len(order)), default=None),
        out_of_memory=sum(row["reason"] == OUT_OF_MEMORY for row in rows),
        failed=sum(row["reason"] == FAILED for row in rows),
        texts={reason: reasons.count(reason) for reason in set(reasons)},
    )
