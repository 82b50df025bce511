"""Saved queries: one SQL file for each question."""
