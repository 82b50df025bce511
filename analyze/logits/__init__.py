"""Logits from rows of `final` and the head of a model: products, tiles, divergences, the lens."""
