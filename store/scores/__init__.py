"""Scores of benchmarks, and the items that an evaluation keeps with them."""
