"""`python -m lpp.capture`, which is `lpp-capture`."""

from lpp.store.terminal.entry import capture

if __name__ == "__main__":
    capture()
