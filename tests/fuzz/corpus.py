"""The kept inputs of each target: one archive a target, `corpus/TARGET.zip`.

An entry is named as libFuzzer names its inputs, by a checksum of its bytes. An archive is written
with a fixed date and in the order of its names: equal inputs make equal files.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ARCHIVES: Final = Path(__file__).with_name("corpus")

BEGINNING: Final = (1980, 1, 1, 0, 0, 0)
"""The first date that a zip file can hold."""


def archive(target: str) -> Path:
    """Where the inputs of `target` are kept."""
    return ARCHIVES / f"{target}.zip"


def kept_inputs(target: str) -> dict[str, bytes]:
    """Name -> bytes of every kept input; empty where nothing is kept yet."""
    path = archive(target)
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in sorted(opened.namelist())}


def keep_inputs(target: str, inputs: Mapping[str, bytes]) -> None:
    """Add `inputs` to the archive of `target`."""
    every = kept_inputs(target) | dict(inputs)
    path = archive(target)
    path.parent.mkdir(exist_ok=True)
    written = path.with_suffix(".new")
    with zipfile.ZipFile(written, "w") as opened:
        for name in sorted(every):
            entry = zipfile.ZipInfo(name, BEGINNING)
            opened.writestr(entry, every[name], zipfile.ZIP_DEFLATED, 9)
    written.replace(path)
