"""What one project stores for each token, and which of our sites that is."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lpp.store.errors import InputError

if TYPE_CHECKING:
    from lpp.store.exchange.files import Files


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One project: how its files lie, and how it counts layers."""

    name: str
    """For `--to` and `--from`."""
    project: str
    """Name and release whose code was read."""
    layout: str
    """Its files, in Markdown."""
    counts_layers: bool
    """Whether layer id i is the output of block i, 0 the input of the first block, and the last
    state is the input of the final norm. Otherwise the layout names our sites.
    """
    files: str
    """Module of this room and name of its `Files`: they need pyarrow, a list of names does not."""

    def opened(self) -> "Files":
        """How its files are read and written."""
        module, _, name = self.files.partition(".")
        found = getattr(importlib.import_module(f"lpp.store.exchange.{module}"), name)
        return cast("Files", found)

    def site(self, layer: int, n_blocks: int) -> str:
        """Our site of a layer id of a model of `n_blocks` blocks. InputError for another id."""
        if not 0 <= layer <= n_blocks:
            raise InputError(
                f"layer {layer} of {self.name}: a model of {n_blocks} blocks has 0 to {n_blocks}. "
                f"Name the layers as {self.name} counts them.",
            )
        return f"block.{layer}" if layer else "embed"
