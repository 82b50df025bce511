"""PLACEHOLDER"""

if __name__ != "lpp.analyze":
    raise ImportError(
        f"import this package as lpp.analyze, not as {__name__}: two copies would not share types"
    )
