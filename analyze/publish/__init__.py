"""Stores for others: what of a store is published, and its card."""
