"""`python -m lpp.analyze`, which is `lpp-analyze`."""

from lpp.store.terminal.entry import analyze

if __name__ == "__main__":
    analyze()
