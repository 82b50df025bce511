"""Where a store lies: one protocol, and behind it a disk, a bucket or an address."""
