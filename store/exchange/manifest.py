"""The `manifest.json` of a cache of another project."""

import json
from pathlib import Path
from typing import Any

from lpp.store.exchange.foreign import damaged, not_there


def read_manifest(path: Path, **expected: object) -> dict[str, Any]:
    """The document. expected: values that its fields must have; a field that is missing has None.

    InputError without a manifest; FormatError for one that cannot be read, or is another.
    """
    file = path / "manifest.json"
    if not file.is_file():
        not_there(path, "no manifest.json here")
    try:
        document: dict[str, Any] = json.loads(file.read_text("utf-8"))
        fields = {name: document.get(name) for name in expected}
    except (OSError, ValueError, AttributeError) as error:
        damaged(file, f"cannot be read ({error})")
    for name, value in expected.items():
        if fields[name] != value:
            damaged(file, f"{name} is {fields[name]!r}, this release reads {value!r}")
    return document


def write_manifest(folder: Path, document: dict[str, Any]) -> None:
    """Write it."""
    (folder / "manifest.json").write_text(json.dumps(document, indent=2, sort_keys=True), "utf-8")
