"""The pages of `diff`: one pair, one run against many, a gate."""
