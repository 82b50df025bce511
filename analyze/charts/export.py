"""Charts as files: pictures without a browser, a page that needs no network, the specification.

vl-convert runs Vega inside the process, so a server without display or browser makes the picture.
On one machine, the same chart gives the same bytes; machines differ in their fonts.
"""

import json
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from lpp.analyze.charts.theme import INK, debug_mode, vl_convert
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.disk import replace_file

_FORMATS: Final = ("png", "svg", "html", "json")
LIGHT: Final = ("#1A1A1A", "#FFFFFF")
DARK: Final = ("#F0F0F0", "#1A1A1A")
"""Text colour and background of dark pictures."""
_WIDTH: Final = 560
"""Width in pixels of a chart that has no container to fill."""
SNIPPET: Final = "window.vegaEmbed = vegaEmbed;"
PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chart</title>
<style>:root {{ color-scheme: light dark; font-family: sans-serif; }}</style>
<main><div id="chart" style="width: 100%"></div></main>
<script type="application/json" id="spec">{spec}</script>
<script type="module">
{script}
vegaEmbed("#chart", JSON.parse(document.getElementById("spec").textContent),
  {{renderer: "svg", actions: false}});
</script>
"""


def save_chart(chart: Any, path: str | Path, *, dark: bool = False, width: int = _WIDTH) -> Path:
    """Write `chart` to `path`, in the format of its suffix: png, svg, html or json. Returns the
    path.

    dark: light text on a dark background, for png and svg; a page follows its reader's setting.
    width: pixels of a picture of one panel, labels included. A png has twice as many pixels. The
    page contains its scripts (0.9 MB) and loads nothing else.

    Raises InputError for another suffix or a missing folder, MachineError if `path` cannot be
    written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise InputError(
            f"{path}: a chart is written as {', '.join(_FORMATS)}; end the name in one of them."
        )
    if not path.parent.is_dir():
        raise InputError(
            f"{path.parent} is no folder. `mkdir -p` makes it.", kind=ErrorKind.NOT_FOUND
        )
    replace_file(path, _bytes(chart, kind, DARK if dark else LIGHT, width))
    return path


def panels_of(chart: Any) -> dict[str, dict[str, Any]]:
    """The panels of `chart` in the Vega-Lite grammar, each as wide as its container, by their
    index; that of a single one is empty. Nothing is checked against the schema, which would take as
    long as drawing: tests check it.
    """
    with debug_mode(False):
        whole = chart.to_dict(validate=False)
    if "concat" not in whole:
        return {"": whole}
    common = ("$schema", "background", "config", "data", "usermeta")
    shared, panels = {name: whole[name] for name in common if name in whole}, {}
    for index, part in enumerate(whole["concat"]):
        text = json.dumps({**shared, **part})
        own = {name: rows for name, rows in whole["datasets"].items() if f'"{name}"' in text}
        params = [
            {**param, "views": [view for view in param["views"] if f'"{view}"' in text]}
            for param in whole.get("params", [])
        ]
        size = {"width": "container", "datasets": own, "params": params}
        panels[str(index)] = {**shared, **part, **size}
    return panels


def embedded(document: Any) -> str:
    """JSON for a script element: no text in it can end the element or begin a comment.

    >>> embedded({"a": "</script>"})
    '{"a":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


@cache
def chart_script() -> str:
    """JavaScript that draws charts, for `<script type="module">`: it defines `vegaEmbed`."""
    process = begin_script()
    made = process.communicate()[0].decode() if process else ""
    return made or vl_convert.javascript_bundle(snippet=SNIPPET)


@cache
def begin_script() -> "subprocess.Popen[bytes] | None":
    """Have another process make what `chart_script` returns. That takes as long as drawing the
    charts of a report, and vl-convert would keep the interpreter's lock meanwhile. None where no
    process can be started.
    """
    script = f"vl_convert.javascript_bundle(snippet={SNIPPET!r})"
    code = f"import sys, vl_convert; sys.stdout.buffer.write({script}.encode())"
    words = [sys.executable, "-P", "-c", code]
    with suppress(OSError):
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return None


def _bytes(chart: Any, kind: str, colors: tuple[str, str], width: int) -> bytes:
    spec = chart.to_dict()  # checked against the schema
    if kind == "json":
        return (json.dumps(spec, sort_keys=True, indent=1) + "\n").encode()
    if kind == "html":
        return PAGE.format(spec=embedded(spec), script=chart_script()).encode()
    picture = _drawn(spec, colors, width)
    if kind == "svg":
        return _described(vl_convert.vegalite_to_svg(picture), spec["description"]).encode()
    return bytes(vl_convert.vegalite_to_png(picture, scale=2))


def _described(svg: str, description: str) -> str:
    """The picture with the roles and the text alternative that Vega gives it inside a page."""
    roles = 'role="graphics-document" aria-roledescription="visualization"'
    return svg.replace("<svg ", f"<svg {roles} aria-label={quoteattr(description)} ", 1)


def _drawn(spec: dict[str, Any], colors: tuple[str, str] = LIGHT, width: int = _WIDTH) -> Any:
    """`spec` for a picture: a width in pixels, and `colors` of text and background."""
    ink, paper = colors
    look = {name: part for name, part in spec.items() if name != "datasets"}
    picture = json.loads(json.dumps(look).replace(f'"{INK}"', f'"{ink}"'))
    picture |= {"background": paper, "datasets": spec.get("datasets", {})}
    if picture.get("width") == "container":
        picture |= {"width": width, "autosize": {"type": "fit-x", "contains": "padding"}}
    return picture
