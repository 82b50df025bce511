"""Feeds as data sets of torch, so that its DataLoader takes them: `batch_size=None`."""

from typing import Any, Final

from torch.utils.data import IterableDataset

from lpp.store.feed.mixed import MixedRows
from lpp.store.feed.prompt_feed import PromptFeed
from lpp.store.feed.row_feed import RowFeed


class TorchRowFeed(RowFeed, IterableDataset):  # type: ignore[type-arg]
    """A `RowFeed` of tensors."""


class TorchMixedRows(MixedRows, IterableDataset):  # type: ignore[type-arg]
    """`MixedRows` of tensors."""


class TorchPromptFeed(PromptFeed, IterableDataset):  # type: ignore[type-arg]
    """A `PromptFeed` of tensors."""


OF: Final[dict[type[Any], type[Any]]] = {
    RowFeed: TorchRowFeed,
    MixedRows: TorchMixedRows,
    PromptFeed: TorchPromptFeed,
}
"""The class of tensors of each class of arrays."""
