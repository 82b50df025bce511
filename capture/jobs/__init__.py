"""Many captures from one file."""
