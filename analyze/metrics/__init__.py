"""Declared metrics: name, unit, definition, source and the function that computes it."""
