"""The command `lpp-capture`."""
