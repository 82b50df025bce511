"""Backends: what runs a model and gives the rows of its sites and the statistics of its logits."""
