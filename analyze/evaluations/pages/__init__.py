"""The pages of `items`: one run, two runs."""
