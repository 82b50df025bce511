"""The gate of `diff`: conditions, what each says of a comparison, its page."""
