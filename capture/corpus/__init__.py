"""Texts: which corpora there are, how they are read, which prompts a run takes."""
