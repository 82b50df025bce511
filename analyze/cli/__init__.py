"""`lpp-analyze`: a file for each command."""
