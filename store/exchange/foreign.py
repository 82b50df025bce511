"""Hidden states that another project stored, as each reader of this room gives them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.plan import StoredDtype

Sample = Mapping[str, Any]
"""A prompt as `lpp.store.sink` takes it: `input_ids`, `id`, and `loss_mask` where there is one."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Samples of another project: prompts, and a few states of each token."""

    n_states: int
    """States of a token: one for each layer, and the last state where the project keeps it."""
    width: int
    dtype: StoredDtype
    samples: Callable[[], Iterator[Sample]]
    """Prompts in order, without states."""
    rows: Callable[[int], Sequence[npt.NDArray[Any]]]
    """(n_tokens, width) of each state of a sample, by its place in `samples`; bfloat16 as its bits.
    FormatError names a file that is damaged."""
    layers: tuple[int, ...] | None = None
    """Layer ids as the project counts them; None where its files do not say."""
    has_last: bool = True
    """Whether the last of the states is the project's last state."""
    sites: Mapping[str, tuple[int, StoredDtype]] | None = None
    """Width and dtype of each state by our name of its site, for layouts that name sites."""
    model: str = ""
    """Name of the model; empty where the files do not say."""
    n_blocks: int = 0
    """Blocks of the model; 0 where the files do not say."""
    vocabulary: int = 0
    """Token ids are below it; 0 where the files do not say."""


def unpadded(ids: npt.NDArray[Any], mask: npt.NDArray[Any], pad_id: int) -> int:
    """Tokens of a sample without the padding at its end: tokens `pad_id` outside of the mask.

    >>> unpadded(np.array([5, 0, 7, 0, 0]), np.array([0, 0, 1, 0, 0]), 0)
    3
    """
    real = np.flatnonzero((ids != pad_id) | (mask != 0))
    return int(real[-1]) + 1 if len(real) else 0


def damaged(path: Path, why: object) -> NoReturn:
    """Raise FormatError for a file that is not what its project writes."""
    raise FormatError(
        f"{path}: {why}. Write it again with the program that made it, or remove it; then repeat "
        "the command, which goes on where it stood.",
        kind=ErrorKind.CORRUPT,
    )


def not_there(path: Path, what: str) -> NoReturn:
    """Raise InputError for a path that holds nothing of a project."""
    raise InputError(
        f"{path}: {what}. Name the folder that the program wrote.", kind=ErrorKind.NOT_FOUND
    )
