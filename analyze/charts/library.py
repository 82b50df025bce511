"""The only import of Vega-Altair, and the error if the extra `report` is not installed.

Chart modules take `alt` and `vl_convert` from here, and nothing else in the package imports them,
so analysis works without the extra. Reasons for this library: Vega-Lite's schema checks every
chart, and vl-convert writes PNG and SVG without a browser.
"""

from lpp.store.errors import ErrorKind, MachineError

try:
    import altair as alt
    import vl_convert
    from altair.utils.schemapi import debug_mode
except ImportError as error:
    raise MachineError(
        f"charts need the package {(error.name or '').partition('.')[0]}, which is not installed. "
        "In your clone of lpp-engine: pip install '.[report]'",
        kind=ErrorKind.NO_PACKAGE,
    ) from None

__all__ = ["alt", "debug_mode", "vl_convert"]
