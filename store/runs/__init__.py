"""Runs: whole shards in, rows and tables out, and the checks of what was committed."""
