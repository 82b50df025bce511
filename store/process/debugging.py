"""Whether this process shows tracebacks and the warnings of libraries."""

import os
import sys


def debugging() -> bool:
    """Whether the user asked for tracebacks and the libraries' own warnings."""
    return "--debug" in sys.argv or bool(os.environ.get("LPP_DEBUG"))
