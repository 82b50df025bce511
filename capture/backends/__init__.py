"""Backends run a model and return the rows of its sites and the statistics of its logits."""
