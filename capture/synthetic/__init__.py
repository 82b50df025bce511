"""Packaged tasks of lm-eval: their items, and how an answer is scored."""
