"""Feeds training from a store: rows of hidden states in random order, exactly once an epoch.

from lpp.store.feed import rows

for batch in rows(run, "block.15", batch=4096, seed=0):
...
"""

from lpp.store.feed.row_feed import RowFeed
from lpp.store.feed.rows import rows

__all__ = ["RowFeed", "rows"]
