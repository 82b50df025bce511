"""Two synthetic tests, as tasks of lm-eval: their items, and how an answer is scored."""
