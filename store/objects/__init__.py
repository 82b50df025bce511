"""Where a store lies: one protocol, and behind it a directory of a disk or a prefix of a bucket."""
