"""Models: loading them, what a plan records of them, where their sites are."""
