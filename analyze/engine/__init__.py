"""Compute metrics of many sites: read rows once, accumulate, solve, cache."""
