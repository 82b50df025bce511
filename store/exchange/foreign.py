"""Hidden states that another project stored, and how its files are read and written."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.exchange.selection import Exported, PromptPart
from lpp.store.format.plan import SiteDtype


@dataclass(frozen=True, slots=True)
class Stored:
    """A sample as its file has it."""

    path: Path
    """Of the file, for errors."""
    number: int
    """As the project counts it."""
    token_ids: Any
    """(n,)"""
    loss_mask: Any
    """(n,) of 0 and 1; None where the project has none."""
    states: tuple[Any, ...]
    """(n, columns) of each state; bfloat16 as its bits."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """(n,) of some statistics of the logits, as `RowSink.put` takes them."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """The samples of a folder."""

    count: int
    """Samples."""
    stored: Callable[[int], Stored]
    """Opens a sample, by its place from 0. FormatError names a file that is damaged."""
    states: tuple[tuple[int, SiteDtype], ...]
    """Columns and dtype of each state of a token."""
    sites: tuple[str, ...] | None = None
    """Our site of each state; None where the files do not say."""
    left_out: int = 0
    """Prompts of the project that have no states."""
    model: str = ""
    """Name of the model; empty where the files do not say."""
    n_blocks: int = 0
    """Blocks of the model; 0 where the files do not say."""
    vocabulary: int = 0
    """Token ids are below it; 0 where the files do not say."""
    digest: str = ""
    """Distinguishes the run from others of the same tokens; empty if the folder's name does."""

    def samples(self) -> Iterator[dict[str, Any]]:
        """Prompts in order, as `lpp.store.sink` takes them: `input_ids`, `id`, `loss_mask`.

        FormatError for a sample whose states have other shapes: before any row is written.
        """
        for place in range(self.count):
            sample = self.sample(place)
            mask = {} if sample.loss_mask is None else {"loss_mask": sample.loss_mask}
            yield {"input_ids": sample.token_ids, "id": sample.number} | mask

    def sample(self, place: int) -> Stored:
        """A sample whose states have the right shapes, or FormatError."""
        sample = self.stored(place)
        found = [states.shape for states in sample.states]
        shapes = [(len(sample.token_ids), width) for width, _ in self.states]
        if found != shapes:
            damaged(sample.path, f"states of {found[:3]}, expected {shapes[:3]}")
        return sample


@dataclass(frozen=True, kw_only=True)
class Files:
    """How the files of one project are read and written."""

    read: Callable[[Path], Foreign]
    """Opens a folder."""
    part: Callable[[Path, Exported, PromptPart], None] | None = None
    """Writes the files of one part. Called again after a kill, it writes the same bytes. None:
    these files are only read."""
    finish: Callable[[Path, Exported], None] | None = None
    """Writes what covers all samples: a data set."""


def check_file(path: Path) -> None:
    """FormatError unless `path` is a file: opening a pipe or a device might never end."""
    if not path.is_file():
        damaged(path, "no file is there" if not os.path.lexists(path) else "is not a file")


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
