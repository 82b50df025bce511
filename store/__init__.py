"""PLACEHOLDER"""

if __name__ != "lpp.store":
    raise ImportError(
        f"import this package as lpp.store, not as {__name__}: two copies would not share types"
    )
