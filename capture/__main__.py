"""`python -m lpp.capture`, which is `lpp-capture`."""

from lpp.store.commands.entry import capture

if __name__ == "__main__":
    capture()
