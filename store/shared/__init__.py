"""What many runs of a store share: heads, matrices and the like, each committed once."""
