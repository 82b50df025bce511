"""What the four packages share a name in: `lpp.store`, `lpp.capture`, `lpp.analyze`, `lpp.sql`.

They lie beside this folder, which holds nothing but the version of them all.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module 'lpp' has no attribute {name!r}")
    from importlib.metadata import version  # not at the top: commands start without it

    return version("lpp-engine")
