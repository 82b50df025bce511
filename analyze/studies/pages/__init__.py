"""The pages of the studies: profile, layers, CKA, correlations."""
