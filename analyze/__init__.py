"""From a store to numbers: lazy tables, spectra, profiles, the database. No model, no torch.

docs/how-to/ shows the use. Names load on first use, so that
`lpp-analyze --help` costs no Polars.
"""

import lazy_loader

if __name__ != "lpp.analyze":
    raise ImportError(
        f"import this package as lpp.analyze, not as {__name__}: two copies would not share types"
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
