"""Model to store: a model reads a corpus once, and what it computed is kept.

Needs torch; nothing else of the project does. Names load on first use, so that importing this
package costs no torch.
"""

import lazy_loader

if __name__ != "lpp.capture":
    raise ImportError(
        f"import this package as lpp.capture, not as {__name__}: two copies would not share types"
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
