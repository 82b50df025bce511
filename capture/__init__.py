"""Model to store: a model reads a corpus once, and what it computed is kept.

Needs torch; nothing else of the project does. Names load on first use, so that importing this
package costs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "lpp.capture":
    raise ImportError(
        f"import this package as lpp.capture, not as {__name__}: two copies would not share types"
    )

if TYPE_CHECKING:
    from lpp.capture.from_python import capture as capture
    from lpp.capture.from_python import demo_model as demo_model

_HOME = {
    "capture": "from_python",
    "demo_model": "from_python",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lpp.capture.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lpp.capture' has no attribute {name!r}")
