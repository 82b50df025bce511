"""The store: its format on disk, written in whole shards and read in blocks.

SPEC.md beside this file is the authority. Names load on first use, so that importing
`lpp.store.errors` costs no zarr and no pyarrow.
"""

import lazy_loader

if __name__ != "lpp.store":
    raise ImportError(f"import this package as lpp.store, not as {__name__}")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
