"""The rows of a site and the token statistics of a shard, in blocks, of one run or of two."""
