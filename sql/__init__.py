"""PLACEHOLDER"""

if __name__ != "lpp.sql":
    raise ImportError(
        f"import this package as lpp.sql, not as {__name__}: two copies would not share types"
    )
