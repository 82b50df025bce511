"""Runs a plan: forward passes, encoding, commits; stopping, repair and status."""
