"""The feed of whole prompts: batches are packed from a buffer that holds each prompt at a slot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.reader import to_float32
from lpp.store.feed.draws import Integers
from lpp.store.feed.epoch import Epoch
from lpp.store.feed.output import Like, OutputDtype, given
from lpp.store.feed.reader import Loaded, SpanReader
from lpp.store.feed.resumable import ResumableFeed
from lpp.store.format.prompt_columns import TOKEN_PREFIX, token_columns
from lpp.store.format.rows import ranges
from lpp.store.runs.read import Run, by_token


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
        self._buffer: list[list[npt.NDArray[Any]]] = []

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which has a buffer of its own."""
        return {**super().__getstate__(), "_buffer": []}

    def close(self) -> None:
        """End the threads and free the buffer; the next batch starts them again."""
        super().close()
        self._buffer = []

    def _edges(self) -> Integers:
        return self._row_edges[self._spans.edges]

    def _rows(self, span: int, units: Integers) -> Integers:
        edges, first = self._row_edges, int(self._spans.edges[span])
        starts, ends = edges[units + first], edges[units + first + 1]
        return ranges(starts - edges[first], ends - starts)

    def _units(self, loaded: Loaded) -> Integers:
        return np.unique(np.searchsorted(self._row_edges, loaded.rows, "right") - 1)

    def _allocate(self, epoch: Epoch, reader: SpanReader) -> None:
        self._buffer = [[]] * epoch.slots.capacity
        self._columns = reader.columns

    def _keep(self, slots: Integers, loaded: Loaded) -> None:
        units = self._units(loaded)
        ends = np.cumsum(np.diff(self._row_edges)[units]).tolist()
        for slot, first, end in zip(slots.tolist(), [0, *ends[:-1]], ends, strict=True):
            self._buffer[slot] = [column[first:end].copy() for column in loaded.values]

    def _draw(self, epoch: Epoch) -> Integers:
        slots, tokens = list[Integers](), 0
        while len(drawn := epoch.draw(1)):
            prompt = int(epoch.unit_in[drawn[0]])
            tokens += int(self._row_edges[prompt + 1] - self._row_edges[prompt])
            if slots and tokens > self._max_tokens:
                epoch.put_back()
                break
            slots.append(drawn)
        return np.concatenate([np.zeros(0, np.int64), *slots])

    def _batch(self, epoch: Epoch, slots: Integers) -> PromptBatch:
        prompts = epoch.unit_in[slots]
        starts, ends = self._row_edges[prompts], self._row_edges[prompts + 1]
        rows = ranges(starts, ends - starts)
        columns = zip(*(self._buffer[slot] for slot in slots.tolist()), strict=True)
        hidden = {
            site: given(self._joined(parts), self._like, is_bfloat16=column.is_bfloat16)
            for site, parts, column in zip(self._sites, columns, self._columns, strict=True)
        }
        for slot in slots.tolist():
            self._buffer[slot] = []
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
        rows = np.concatenate(parts)
        return rows if self._dtype == "stored" else to_float32(rows)


def labels_of(prompts: pa.Table, lengths: Integers) -> dict[str, npt.NDArray[Any]]:
    """Values by token of all prompts, (tokens,) each, by their names without `token.`."""
    labels = {}
    for name in token_columns(prompts.schema):
        values = by_token(prompts[name].combine_chunks(), lengths)
        filled = values.fill_null(False) if pa.types.is_boolean(values.type) else values
        labels[name.removeprefix(TOKEN_PREFIX)] = filled.to_numpy(zero_copy_only=False)
    return labels
