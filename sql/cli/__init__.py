"""`lpp-sql`."""

from lpp.sql.cli.command import main

__all__ = ["main"]
