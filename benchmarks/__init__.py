"""Measured ratios: what something costs beside the least it could cost, both in one run."""
