"""The same work by other libraries, each side a process of its own: `make bench-peers`."""
