"""Tables as text for a terminal."""
