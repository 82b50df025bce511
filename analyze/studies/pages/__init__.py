"""The pages of the studies: profile, layers, sensitivity, CKA, correlations."""
