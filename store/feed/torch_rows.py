"""A feed as a data set of torch, so that its DataLoader takes it: the only import of torch here."""

from torch.utils.data import IterableDataset

from lpp.store.feed.row_feed import RowFeed


class TorchRowFeed(RowFeed, IterableDataset):  # type: ignore[type-arg]
    """A `RowFeed` whose batches are tensors: `DataLoader(feed, batch_size=None)`."""
