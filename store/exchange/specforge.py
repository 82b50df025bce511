"""Files of SpecForge: `rows_{a}-{b}/data_{i}.ckpt`, a pickled dict of tensors each, or `.ckpt.gz`.

The names of the tensors are those of the algorithm that the files were made for. A file is loaded
with `weights_only=True` alone, which runs no code; SpecForge itself loads whatever a file holds.
"""

import gzip
import io
import pickle
import re
from pathlib import Path
from typing import Any, Final

from lpp.store.errors import ErrorKind, InputError, MachineError, first_line
from lpp.store.exchange.files import Files
from lpp.store.exchange.foreign import Foreign, Stored, damaged, not_there
from lpp.store.format.plan import StoredDtype

_FILE: Final = re.compile(r"data_([0-9]+)\.ckpt(?:\.gz)?")

_PAD: Final = 0
"""The id with which its collator fills up the samples of a batch."""

_STATES: Final = (
    ("aux_hidden_state", "hidden_state"),
    ("hidden_states", "target_last_hidden_states"),
    ("hidden_states", None),
)
"""Tensors of the layers and of the last state: of EAGLE-3, of DSpark, of DFlash and Domino."""

_DTYPES: Final[dict[str, StoredDtype]] = {
    **{"torch.bfloat16": "bfloat16", "torch.float16": "float16", "torch.float32": "float32"}
}


def read(path: Path, pad_id: int | None = None) -> Foreign:
    """A folder of such files. pad_id: of the padding, which is left out; by default SpecForge's."""
    names = ((_FILE.fullmatch(file.name), file) for file in path.rglob("data_*"))
    found = sorted((int(name[1]), file) for name, file in names if name)
    if not found:
        not_there(path, "no data_{i}.ckpt here or below")
    numbers, files = zip(*found, strict=True)
    first = _load(files[0])
    for layers, last in _STATES:
        if layers in first and (last is None or last in first):
            break
    else:
        damaged(files[0], f"tensors {', '.join(first)}, which are of no algorithm known here")
    if last is None:
        raise InputError(
            f"{path}: files of DFlash or Domino have the states of layers side by side and no last "
            "state, so that no file says how many layers there are. Prepare them with --strategy "
            "dspark, which keeps both.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    width = int(first[last].shape[-1]) if first[last].ndim else 0
    dtype = _DTYPES.get(str(first[last].dtype))
    if dtype is None or not width or not first[layers].ndim:
        damaged(files[0], f"states of {first[last].dtype} {tuple(first[last].shape)}")

    def stored(place: int) -> Stored:
        file = files[place]
        tensors = _load(file)
        if missing := {"input_ids", "loss_mask", layers, last} - tensors.keys():
            damaged(file, f"no tensor {', '.join(sorted(missing))}")
        states = tuple(tensors[name].flatten(0, -2) for name in (layers, last))
        ids, mask = (tensors[name].flatten() for name in ("input_ids", "loss_mask"))
        return Stored(file, numbers[place], ids, mask, states)

    return Foreign(
        count=len(files),
        stored=stored,
        pad_id=_PAD if pad_id is None else pad_id,
        n_states=int(first[layers].shape[-1]) // width + 1,
        width=width,
        dtype=dtype,
    )


def _load(path: Path) -> dict[str, Any]:
    """The tensors of a file."""
    try:
        import torch
    except ImportError:
        raise MachineError(
            "files of SpecForge are read with torch, which is not installed here: pip install "
            "torch.",
            kind=ErrorKind.NO_PACKAGE,
        ) from None
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                loaded = torch.load(io.BytesIO(file.read()), "cpu", weights_only=True)
        else:
            loaded = torch.load(path, "cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        damaged(path, f"needs code to be read, and none is run ({first_line(error)})")
    except Exception as error:  # of an altered file torch raises whatever its unpickler meets
        damaged(path, f"cannot be read ({first_line(error)})")
    if not isinstance(loaded, dict) or not all(hasattr(v, "numel") for v in loaded.values()):
        damaged(path, "no dict of tensors")
    return loaded


FILES: Final = Files(read=read)
