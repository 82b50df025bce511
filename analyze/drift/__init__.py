"""What changed between two models: two runs over the same tokens, compared token by token."""
