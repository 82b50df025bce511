"""What a store's bytes mean, SPEC.md: documents, tables, names, limits. Independent of disk or
bucket.
"""
