"""Limits of SQL: what it may access, how much disk it may fill, how long it may run."""
