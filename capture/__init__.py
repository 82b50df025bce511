"""Model to store: a model reads a corpus once, and what it computed is kept.

Needs torch; nothing else of the project does.
"""

if __name__ != "lpp.capture":
    raise ImportError(
        f"import this package as lpp.capture, not as {__name__}: two copies would not share types"
    )
