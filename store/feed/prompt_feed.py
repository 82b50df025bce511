"""The feed of whole prompts: batches are packed from prompts in random order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.reader import to_float32
from lpp.store.draws import Integers
from lpp.store.errors import InputError
from lpp.store.feed.buffer import Buffer
from lpp.store.feed.epoch import Epoch, Share
from lpp.store.feed.output import Like, OutputDtype, given, worker
from lpp.store.feed.reader import Memory, RunSource
from lpp.store.feed.resumable import ResumableFeed
from lpp.store.format.prompt_columns import TOKEN_PREFIX, token_columns
from lpp.store.format.rows import ranges
from lpp.store.runs.read import Run, by_token
from lpp.store.units import counted


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Whole prompts, end to end: n tokens of k prompts. Arrays are of NumPy or torch."""

    prompt_ids: Any
    """(k,) int64: which prompts."""
    token_ids: Any
    """(n,) int64."""
    documents: Any
    """(n,) int64: the prompt that each token belongs to, counted from 0 in the batch."""
    positions: Any
    """(n,) int64: position of each token in its prompt."""
    labels: dict[str, Any]
    """(n,) of each column of values by token, such as `loss_mask`: False and NaN where a prompt has
    none."""
    hidden: dict[str, Any]
    """(n, d) of each site."""


class PromptFeed(ResumableFeed):
    """An iterator of batches of prompts. `prompts` makes one and says what it gives."""

    def __init__(
        self,
        run: Run,
        sites: Sequence[str],
        *,
        max_tokens: int,
        like: Like,
        dtype: OutputDtype,
        **options: Any,
    ) -> None:
        super().__init__([(run, tuple(sites))], max_tokens=max_tokens, **options)
        self._sites, self._max_tokens, self._like, self._dtype = sites, max_tokens, like, dtype
        self._row_edges = run.row_edges
        table = run.prompts(*run.plan.prompts.token_columns)
        ids = table["token_ids"].combine_chunks()
        self._token_ids = ids.flatten().to_numpy(zero_copy_only=False)
        self._labels = labels_of(table, run.lengths)
        self._columns = RunSource(run, sites).columns

    def _share(self, number: int) -> Share:
        """Ranks, and workers, have equally many batches: as many as that with the most needs to
        pack its prompts, or as many as that with the fewest prompts has.
        """
        worker_number, workers = worker()
        of, total = self._order.world * workers, int(self._spans.counts.sum())
        shares = [self._order.unit_share(total, k, of) for k in range(of)]
        fewest = total // of
        if not fewest:
            raise InputError(
                f"{counted(total, 'prompt')} for {of} ranks and workers: each needs one. Take "
                "fewer workers."
            )
        needed = max(self._packed(number, share) for share in shares)
        mine = shares[self._order.rank * workers + worker_number]
        return replace(mine, batches=min(needed, fewest))

    def _packed(self, number: int, share: Share) -> int:
        """Batches that the prompts of a share take in epoch `number`."""
        units = Epoch(self._order, self._spans, number, share).planned()
        ends, count, first = np.cumsum(np.diff(self._row_edges)[units]), 0, 0
        while first < len(ends):
            before = int(ends[first - 1]) if first else 0
            first, count = int(np.searchsorted(ends, before + self._max_tokens, "right")), count + 1
        return count

    def _next(self, buffer: Buffer) -> PromptBatch | None:
        prompts, parts, left = list[Integers](), list[Memory](), self._max_tokens
        later = buffer.epoch.share.batches - self._at["batches"] - 1  # each has a prompt
        while later >= 0 and (rest := buffer.rest()).shape[1]:
            ends = np.cumsum(np.diff(self._row_edges)[rest[0]])
            count = min(int(np.searchsorted(ends, left, side="right")), buffer.left - later)
            units, slots = buffer.take(count)
            rows = ranges(slots, self._row_edges[units + 1] - self._row_edges[units])
            prompts.append(units)
            parts.append([memory[rows] for memory in buffer.memory])
            left -= len(rows)
            if count < len(ends):
                break
        return self._batch(np.concatenate(prompts), parts) if prompts else None

    def _batch(self, prompts: Integers, parts: Sequence[Memory]) -> PromptBatch:
        starts, ends = self._row_edges[prompts], self._row_edges[prompts + 1]
        rows = ranges(starts, ends - starts)
        columns = zip(*parts, strict=True)
        hidden = {
            site: given(self._joined(values), self._like, is_bfloat16=column.is_bfloat16)
            for site, values, column in zip(self._sites, columns, self._columns, strict=True)
        }
        documents = np.repeat(np.arange(len(prompts)), ends - starts)
        return PromptBatch(
            prompt_ids=given(prompts, self._like),
            token_ids=given(self._token_ids[rows].astype(np.int64), self._like),
            documents=given(documents, self._like),
            positions=given(rows - starts[documents], self._like),
            labels={k: given(values[rows], self._like) for k, values in self._labels.items()},
            hidden=hidden,
        )

    def _joined(self, parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return rows if self._dtype == "stored" else to_float32(rows)


def labels_of(prompts: pa.Table, lengths: Integers) -> dict[str, npt.NDArray[Any]]:
    """Values by token of all prompts, (tokens,) each, by their names without `token.`."""
    labels = {}
    for name in token_columns(prompts.schema):
        values = by_token(prompts[name].combine_chunks(), lengths)
        filled = values.fill_null(False) if pa.types.is_boolean(values.type) else values
        labels[name.removeprefix(TOKEN_PREFIX)] = filled.to_numpy(zero_copy_only=False)
    return labels
