"""`python -m lpp.sql`, which is `lpp-sql`."""

from lpp.store.terminal.entry import sql

if __name__ == "__main__":
    sql()
