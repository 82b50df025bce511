"""What of a run is exported, and its rows some prompts at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import site_array
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.feed.chosen import readable_prompts
from lpp.store.feed.prompt_feed import labels_of
from lpp.store.format.plan import StoredDtype
from lpp.store.format.prompt_columns import LOSS_MASK
from lpp.store.format.rows import positions
from lpp.store.runs.read import Run

PART_BYTES: Final = 128 << 20
"""Bytes of the rows that are in memory at a time, unless one prompt has more."""


@dataclass(frozen=True, kw_only=True)
class PromptPart:
    """Consecutive prompts end to end: k prompts of N tokens."""

    first: int
    """Place of its first prompt among those exported."""
    prompt_ids: npt.NDArray[np.int64]
    """(k,)"""
    edges: npt.NDArray[np.int64]
    """(k + 1,) the first token of each prompt, then N."""
    token_ids: npt.NDArray[np.int32]
    """(N,)"""
    loss_mask: npt.NDArray[np.bool_]
    """(N,) that of the run; else the tokens that the model wrote, or all if it wrote none."""
    rows: Mapping[str, npt.NDArray[Any]]
    """(N, width) of each site of the selection, in its order; bfloat16 as its bits."""

    def samples(self) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """For each prompt its place among those exported, token ids, loss mask, and the states of
        all sites, (n, sites, width).
        """
        for k, (start, end) in enumerate(pairwise(self.edges.tolist())):
            states = np.stack([rows[start:end] for rows in self.rows.values()], axis=1)
            yield self.first + k, self.token_ids[start:end], self.loss_mask[start:end], states


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The sites and the prompts of one export. Prompts that were set aside, and branches, are left
    out.
    """

    run: Run
    sites: tuple[str, ...]
    """In the order of the layers; the last state is the last one, where there is one."""
    layers: tuple[int, ...] = ()
    """Their ids as the other project counts them, without the last state."""

    @cached_property
    def prompt_ids(self) -> npt.NDArray[np.int64]:
        """(P,)"""
        return np.flatnonzero(readable_prompts(self.run))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(P,) tokens of each prompt."""
        return self.run.lengths[self.prompt_ids]

    @property
    def dtypes(self) -> dict[str, StoredDtype]:
        """How the rows of each site are given."""
        return {site: row_dtype(self.run, site) for site in self.sites}

    @property
    def dtype(self) -> StoredDtype:
        """That of all sites, where the other project has one."""
        return self.dtypes[self.sites[-1]]

    @property
    def width(self) -> int:
        """Columns of all sites, where the other project has one width."""
        return self.run.site(self.sites[-1]).width

    @property
    def row_bytes(self) -> int:
        """Bytes of the states of a token."""
        return sum(
            np.dtype(_ITEM[self.dtypes[site]]).itemsize * self.run.site(site).width
            for site in self.sites
        )

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        """(parts + 1,) the first prompt of each part, counted among `prompt_ids`, then P."""
        count = len(self.lengths)
        most, bounds, tokens = PART_BYTES // self.row_bytes, [0], 0
        for k, length in enumerate(self.lengths.tolist()):
            if tokens and tokens + length > most:
                bounds.append(k)
                tokens = 0
            tokens += length
        return np.array([*bounds, count] if count else [0])

    def parts(self, first: int = 0) -> Iterator[PromptPart]:
        """The parts from `first` on. FormatError names a shard that is altered."""
        for start, end in pairwise(self.bounds[first:].tolist()):
            yield self.part(start, end)

    def part(self, start: int, end: int) -> PromptPart:
        """Prompts `start` up to `end` of `prompt_ids`."""
        ids = self.prompt_ids[start:end]
        edges = np.append(0, np.cumsum(self.lengths[start:end]))
        token_ids, mask = self.tokens(start, end)
        reach = int(ids[0]), int(ids[-1]) + 1
        rows = {site: prompt_rows(self.run, site, *reach) for site in self.sites}
        for site, values in rows.items():
            if len(values) != edges[-1]:
                raise FormatError(
                    f"run {self.run.id}: {len(values)} rows of {site} for {edges[-1]} tokens of "
                    f"prompts {ids[0]} to {ids[-1]}. `lpp-analyze verify` says what was altered.",
                    kind=ErrorKind.CORRUPT,
                )
        return PromptPart(
            first=start, prompt_ids=ids, edges=edges, token_ids=token_ids, loss_mask=mask, rows=rows
        )

    def tokens(self, start: int, end: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """(N,) token ids and loss mask of prompts `start` up to `end` of `prompt_ids`. Where the
        run has no mask, it is of the tokens that the model wrote, or of all if it wrote none.
        """
        table, lengths = self._prompts.take(self.prompt_ids[start:end]), self.lengths[start:end]
        ids = table["token_ids"].combine_chunks().flatten().to_numpy()
        if LOSS_MASK in table.column_names:
            return ids, labels_of(table, lengths)["loss_mask"]
        given = table[_GIVEN].to_numpy() if _GIVEN in table.column_names else lengths * 0
        return ids, positions(lengths) >= np.repeat(given, lengths)

    @cached_property
    def _prompts(self) -> Any:
        return self.run.prompts(*({LOSS_MASK, _GIVEN} & {*self.run.extra_columns.names}))


_GIVEN: Final = "n_given"

_ITEM: Final = {"bfloat16": "u2", "float16": "f2", "float32": "f4"}


def row_dtype(run: Run, site: str) -> Any:
    """How rows of a site are read as stored."""
    return run.plan.dtype_read(run.require_rows(site, "float32"))


def prompt_rows(run: Run, site: str, first: int, end: int) -> npt.NDArray[Any]:
    """(N, width) rows of prompts `first` up to `end`, as stored, without those set aside."""
    blocks = [b.values for b in run.blocks(site, first=first, prompts=end, dtype="stored")]
    if len(blocks) == 1:
        return blocks[0]
    spec = run.site(site)
    empty = site_array(spec, run.plan.dtype_of(spec), 0)
    return np.concatenate([np.zeros((0, spec.width), empty.decoded_dtype), *blocks])
