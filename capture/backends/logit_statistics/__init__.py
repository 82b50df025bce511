"""Exact statistics of the logits, over a whole vocabulary or over the shards of several ranks."""

from lpp.capture.backends.logit_statistics.partial import Reduce, VocabularyShard, all_reduce
from lpp.capture.backends.logit_statistics.statistics import (
    STATISTICS,
    TokenStatistics,
    Unembeds,
    logit_statistics,
)

__all__ = [
    "STATISTICS",
    "Reduce",
    "TokenStatistics",
    "Unembeds",
    "VocabularyShard",
    "all_reduce",
    "logit_statistics",
]
