"""Hidden states that another project stored, as the readers of this room give them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.plan import StoredDtype


@dataclass(frozen=True, slots=True)
class Stored:
    """A sample as its file has it: arrays, or tensors of torch on a CPU."""

    path: Path
    """Of the file, for errors."""
    number: int
    """As the project counts it."""
    token_ids: Any
    """(n,), padding included."""
    loss_mask: Any
    """(n,) of 0 and 1; None where the project has none."""
    states: tuple[Any, ...]
    """Arrays of n rows, the states of each token in order; bfloat16 as its bits, or a tensor."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """The samples of a folder."""

    count: int
    """Samples."""
    stored: Callable[[int], Stored]
    """Opens a sample, by its place from 0. FormatError names a file that is damaged."""
    n_states: int
    """States of a token: one for each layer, then the last state where the project has one."""
    width: int
    """Columns of each state, where all have as many."""
    dtype: StoredDtype
    layers: tuple[int, ...] | None = None
    """Layer ids as the project counts them; None where its files do not say."""
    sites: Mapping[str, tuple[int, StoredDtype]] | None = None
    """Width and dtype of each state by our name of its site, for layouts that name sites."""
    left_out: int = 0
    """Prompts of the project that have no states."""
    pad_id: int | None = None
    """Tokens with this id at the end of a sample are padding, unless the mask has them."""
    model: str = ""
    """Name of the model; empty where the files do not say."""
    n_blocks: int = 0
    """Blocks of the model; 0 where the files do not say."""
    vocabulary: int = 0
    """Token ids are below it; 0 where the files do not say."""

    def samples(self) -> Iterator[dict[str, Any]]:
        """Prompts in order, as `lpp.store.sink` takes them: `input_ids`, `id`, `loss_mask`."""
        for place in range(self.count):
            sample = self.stored(place)
            tokens = slice(self._length(sample))
            mask = {} if sample.loss_mask is None else {"loss_mask": sample.loss_mask[tokens]}
            yield {"input_ids": sample.token_ids[tokens], "id": sample.number} | mask

    def rows(self, place: int) -> list[Any]:
        """(n, columns) of each state of a sample, without padding."""
        sample = self.stored(place)
        tokens, length = slice(self._length(sample)), len(sample.token_ids)
        widths = [width for width, _ in self.sites.values()] if self.sites else [self.width]
        columns = sum(widths) if self.sites else self.n_states * self.width
        held = sum(int(np.prod(states.shape[1:])) for states in sample.states)
        if held != columns or any(len(states) != length for states in sample.states):
            shapes = " and ".join(str(tuple(states.shape)) for states in sample.states)
            damaged(sample.path, f"states of {shapes} for {length} tokens of {columns} columns")
        if self.sites:
            return [states[tokens] for states in sample.states]
        parts = (states.reshape(length, -1, self.width)[tokens] for states in sample.states)
        return [part[:, k] for part in parts for k in range(part.shape[1])]

    def _length(self, sample: Stored) -> int:
        """Tokens of a sample without its padding."""
        if self.pad_id is None:
            return len(sample.token_ids)
        return unpadded(np.asarray(sample.token_ids), np.asarray(sample.loss_mask), self.pad_id)


def unpadded(ids: npt.NDArray[Any], mask: npt.NDArray[Any], pad_id: int) -> int:
    """Tokens of a sample without the padding at its end: tokens `pad_id` outside of the mask.

    >>> unpadded(np.array([5, 0, 7, 0, 0]), np.array([0, 0, 1, 0, 0]), 0)
    3
    """
    real = np.flatnonzero((ids != pad_id) | (mask != 0))
    return int(real[-1]) + 1 if len(real) else 0


def damaged(path: Path, why: object) -> NoReturn:
    """Raise FormatError for a file that is not what its project writes."""
    words = " ".join(str(why).split())  # errors of libraries may have several lines
    raise FormatError(
        f"{path}: {words}. Write it again with the program that made it; then repeat the command, "
        "which goes on where it stood.",
        kind=ErrorKind.CORRUPT,
    ) from None


def not_there(path: Path, what: str) -> NoReturn:
    """Raise InputError for a path that holds nothing of a project."""
    raise InputError(
        f"{path}: {what}. Name the folder that the program wrote.", kind=ErrorKind.NOT_FOUND
    )
