"""What a run holds, as files that trainers read."""
