"""PLACEHOLDER"""

if __name__ != "lpp.capture":
    raise ImportError(
        f"import this package as lpp.capture, not as {__name__}: two copies would not share types"
    )
