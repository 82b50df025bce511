"""`profiles.duckdb`: building it, opening it, and the tokens beside it."""
