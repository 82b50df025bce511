"""Evaluation with lm-eval, in which the pass that scores an item is the pass that is captured."""
