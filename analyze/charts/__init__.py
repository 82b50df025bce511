"""Tables as Altair charts."""
