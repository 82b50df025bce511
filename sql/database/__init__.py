"""`profiles.duckdb`: building it, opening it, and the views over the store."""
