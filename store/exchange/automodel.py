"""The DSpark cache of NeMo AutoModel, format version 1.

`shard-NNNNNN.safetensors` holds `shard_size` samples, all filled up to one length S: `input_ids`
and `loss_mask` (k, S) in int64, `target_hidden_states` (k, S, layers * d) and
`target_last_hidden_states` (k, S, d). Nothing in it says where the padding begins, so that ours
adds the lengths to the manifest, which its reader ignores.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.store.errors import ErrorKind, InputError
from lpp.store.exchange.files import Files
from lpp.store.exchange.foreign import Foreign, Stored, damaged
from lpp.store.exchange.manifest import read_manifest, write_manifest
from lpp.store.exchange.selection import PART_BYTES, Part, Selection
from lpp.store.exchange.tensor_file import FLOATS, Tensor, read_tensors, write_tensors
from lpp.store.format.plan import StoredDtype

_VERSION: Final = 1

_DTYPES: Final[dict[str, StoredDtype]] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_LENGTHS: Final = "lpp_lengths"
"""Field of the manifest: tokens of each sample, without padding."""

_PAD: Final = 0
"""Id of the padding that we write; its rows are zeros, and no loss counts them."""


def shard_size(selection: Selection) -> int:
    """Samples of a shard."""
    longest = int(selection.lengths.max(initial=1))
    return max(1, PART_BYTES // (longest * (selection.row_bytes + 16)))


def write_part(folder: Path, selection: Selection, part: Part) -> None:
    """A shard."""
    count, longest = len(part.prompt_ids), int(selection.lengths.max())
    shape, layers = (count, longest), len(selection.layers)
    ids, mask = np.full(shape, _PAD, np.int64), np.zeros(shape, np.int64)
    filled = np.zeros((*shape, layers + 1, selection.width), next(iter(part.rows.values())).dtype)
    for k, (_, token_ids, loss_mask, states) in enumerate(part.samples()):
        tokens = slice(len(token_ids))
        ids[k, tokens], mask[k, tokens], filled[k, tokens] = token_ids, loss_mask, states
    kind, size = FLOATS[selection.dtype], shard_size(selection)
    write_tensors(
        folder / _shard(part.first // size),
        {
            "input_ids": Tensor("I64", ids),
            "loss_mask": Tensor("I64", mask),
            "target_hidden_states": Tensor(kind, filled[:, :, :-1].reshape(*shape, -1)),
            "target_last_hidden_states": Tensor(kind, filled[:, :, -1]),
        },
    )


def write_cache_manifest(folder: Path, selection: Selection) -> None:
    """The manifest. What only the run of the project knows is null."""
    model, corpus = selection.run.plan.model, selection.run.plan.corpus
    template = corpus.template
    names = {dtype: name for name, dtype in _DTYPES.items()}
    document = {
        **{"format_version": _VERSION, "complete": True},
        **{"target_model": model.id, "target_vocab_size": model.logits_width},
        "target_model_type": model.architecture.removesuffix("ForCausalLM").lower(),
        **{"hidden_size": selection.width, "num_hidden_layers": model.n_blocks},
        **{"seq_length": int(selection.lengths.max()), "dtype": names[selection.dtype]},
        **{"num_samples": len(selection.lengths), "shard_size": shard_size(selection)},
        "target_hidden_dim": selection.width * len(selection.layers),
        "target_last_hidden_dim": selection.width,
        "target_layer_ids": list(selection.layers),
        **{"train_data_path": corpus.name, "train_split": None, "shuffle_seed": 0},
        "mask_reasoning_content": False,
        "chat_template_sha256": template.sha256 if template else "",
        _LENGTHS: selection.lengths.tolist(),
    }
    write_manifest(folder, document)


def _shard(number: int) -> str:
    return f"shard-{number:06d}.safetensors"


def read(path: Path, pad_id: int | None = None) -> Foreign:
    """A DSpark cache. pad_id: of its padding, which is left out; not needed for ours."""
    manifest = read_manifest(path, format_version=_VERSION)
    if manifest.get("complete", True) is not True:
        damaged(path / "manifest.json", "the cache is not complete")
    try:
        count, size = int(manifest["num_samples"]), int(manifest["shard_size"])
        layers = tuple(int(layer) for layer in manifest["target_layer_ids"])
        width, n_blocks = int(manifest["hidden_size"]), int(manifest["num_hidden_layers"])
        dtype = _DTYPES[manifest["dtype"]]
        known = manifest.get(_LENGTHS)
        if count < 0 or size < 1 or (known is not None and len(known) != count):
            raise ValueError(f"{count} samples, {size} in a shard")
    except (ValueError, KeyError, TypeError) as error:
        damaged(path / "manifest.json", f"lacks what a DSpark cache needs ({error!r})")
    if known is None and pad_id is None:
        raise InputError(
            f"{path}: samples of AutoModel are filled up to one length, and no file says with "
            "which token. Give --pad-id: the pad_token_id of the tokenizer.",
            kind=ErrorKind.INVALID_VALUE,
        )

    @lru_cache(maxsize=2)
    def shard(number: int) -> dict[str, npt.NDArray[Any]]:
        file = path / _shard(number)
        tensors = read_tensors(file)
        samples = min(size, count - number * size)
        wanted = {
            "input_ids": ("I64", ()),
            "loss_mask": ("I64", ()),
            "target_hidden_states": (FLOATS[dtype], (len(layers) * width,)),
            "target_last_hidden_states": (FLOATS[dtype], (width,)),
        }
        for name, (kind, columns) in wanted.items():
            tensor = tensors.get(name)
            shape = tensor.values.shape if tensor else ()
            if not tensor or tensor.kind != kind or (shape[:1], shape[2:]) != ((samples,), columns):
                damaged(file, f"{name} is {tensor and tensor.kind} {shape}")
        return {name: tensors[name].values for name in wanted}

    def stored(number: int) -> Stored:
        tensors, place = shard(number // size), number % size
        tokens = slice(None if known is None else known[number])
        ids, mask, *states = (values[place, tokens] for values in tensors.values())
        return Stored(path / _shard(number // size), number, ids, mask, tuple(states))

    return Foreign(
        count=count,
        stored=stored,
        pad_id=pad_id if known is None else None,
        n_states=len(layers) + 1,
        layers=layers,
        width=width,
        dtype=dtype,
        model=str(manifest.get("target_model") or ""),
        n_blocks=n_blocks,
        vocabulary=int(manifest.get("target_vocab_size") or 0),
    )


FILES: Final = Files(read=read, part=write_part, finish=write_cache_manifest, per_part=shard_size)
