"""Questions over many numbers: sensitivity, layers, CKA."""
