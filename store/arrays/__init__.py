"""Zarr arrays of a store: rows of a site and scatter matrices, encoded, checked and decoded."""
