"""Committed directories of a store: written whole, opened and compared with their records."""
