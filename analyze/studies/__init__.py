"""Questions over many numbers: layers, CKA."""
