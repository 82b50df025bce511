"""Two synthetic tests, as tasks of lm-eval."""
