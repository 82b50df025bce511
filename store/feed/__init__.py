"""Feeds training from a store: rows or whole prompts in random order, exactly once an epoch.

from lpp.store.feed import prompts, rows

for batch in rows(run, "block.15", batch=4096, seed=0):
...
"""

from lpp.store.feed.make_feeds import prompts, rows
from lpp.store.feed.prompt_feed import PromptBatch, PromptFeed
from lpp.store.feed.row_feed import MixedRows, RowFeed

__all__ = [
    "MixedRows",
    "PromptBatch",
    "PromptFeed",
    "RowFeed",
    "prompts",
    "rows",
]
