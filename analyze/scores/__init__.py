"""Benchmark scores beside the runs, and their correlations with profiles."""
