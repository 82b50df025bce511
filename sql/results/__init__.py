"""Writing a result: a table for people, CSV, JSON and Parquet for programs."""
