"""One capture on a Ray cluster."""
