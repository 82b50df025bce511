"""What a store's bytes mean, SPEC.md: documents, tables, names, limits. Knows no place."""
