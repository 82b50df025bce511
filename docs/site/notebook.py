"""An executed notebook as Markdown: words, code, and what the cells showed."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def as_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures by name."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    pictures: dict[str, bytes] = {}
    parts = [part for cell in cells for part in _cell(cell, path.stem, pictures)]
    return "\n\n".join(parts) + "\n", pictures


def _cell(cell: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    text = "".join(cell["source"]).strip("\n")
    if cell["cell_type"] == "markdown":
        yield text
        return
    yield f"```python\n{text}\n```"
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield f"```text\n{''.join(output['text']).rstrip()}\n```"
            continue
        data = output.get("data", {})
        name = f"{stem}-{len(pictures) + 1}"
        if "image/svg+xml" in data:
            pictures[f"{name}.svg"] = "".join(data["image/svg+xml"]).encode()
            yield f"![Output of the cell above](pictures/{name}.svg)"
        elif "image/png" in data:
            pictures[f"{name}.png"] = base64.b64decode("".join(data["image/png"]))
            yield f"![Output of the cell above](pictures/{name}.png)"
        elif output["output_type"] == "execute_result":
            yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
