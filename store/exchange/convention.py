"""What one project stores for each token, and which of our sites that is."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from lpp.store.exchange.files import Files

LastState = Literal["before", "after"]
"""Whether the last state is the input of the final norm, `block.B`, or its output, `final`."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One project: how its files lie, how it counts layers, and what the last state is."""

    name: str
    """For `--to` and `--from`."""
    project: str
    """Name and release whose code was read."""
    layout: str
    """Its files, in Markdown."""
    first_depth: int | None
    """Blocks before the state of layer id 0: 1 where ids count blocks from 0. None: the layout
    names our sites, and has no ids."""
    last: LastState | None
    """None: the layout has no state apart from those of its layers."""
    last_layer_normed: bool = False
    """Whether the id of the last block means the state after the final norm."""
    has_embed: bool = True
    """Whether there is an id for the input of the first block."""
    needs_layers: bool = True
    """Whether the last state alone is not enough."""
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32")
    """Types of rows that it can hold."""
    in_place: bool = False
    """Whether it can read states from a store, so that a data set of prompts alone is of use."""
    exports: bool = True
    """Whether it is written as well as read."""
    files: str
    """Module of this room and name of its `Files`: they need pyarrow, a list of names does not."""

    def opened(self) -> "Files":
        """How its files are read and written."""
        module, _, name = self.files.partition(".")
        found = getattr(importlib.import_module(f"lpp.store.exchange.{module}"), name)
        return cast("Files", found)

    def site(self, layer: int, n_blocks: int) -> str:
        """Our site of a layer id of a model of `n_blocks` blocks. InputError for one that it does
        not have.
        """
        assert self.first_depth is not None
        depth = layer + self.first_depth
        if not (0 if self.has_embed else 1) <= depth <= n_blocks:
            least = (0 if self.has_embed else 1) - self.first_depth
            raise InputError(
                f"layer {layer} of {self.name}: a model of {n_blocks} blocks has {least} to "
                f"{n_blocks - self.first_depth}. Name the layers as {self.name} counts them.",
                kind=ErrorKind.INVALID_VALUE,
            )
        if depth == n_blocks and self.last_layer_normed:
            return "final"
        return f"block.{depth}" if depth else "embed"

    def layer(self, site: str, n_blocks: int) -> int | None:
        """The id of one of our sites; None where it has none."""
        assert self.first_depth is not None
        depths = range(0 if self.has_embed else 1, n_blocks + 1)
        sites = {self.site(d - self.first_depth, n_blocks): d - self.first_depth for d in depths}
        return sites.get(site)

    def last_site(self, n_blocks: int) -> str | None:
        """Our site of the last state."""
        if self.last is None:
            return None
        return "final" if self.last == "after" else f"block.{n_blocks}"
