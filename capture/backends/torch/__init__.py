"""Capture with hooked torch."""
