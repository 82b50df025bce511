"""Directories that runs of a store share, such as heads and matrices, each committed once."""
