"""The tables of the database as frames, lazy and computed."""
