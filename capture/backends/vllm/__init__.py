"""Capture inside vLLM."""
