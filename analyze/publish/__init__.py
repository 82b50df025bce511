"""Stores for others: what of a store is published, its card, and a catalogue of many."""
