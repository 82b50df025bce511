"""Whether a model in memory equals what its files give; if not, a fingerprint of its state.

Transformers loads weights by name, casts them, and computes the rest from the configuration. So a
model equals its files if its modules, settings and buffers are those that its configuration gives,
and if each weight equals the weight of that name in the files, cast. Otherwise (a weight was
trained, a block was removed, names in the files differ from the modules') it is a model of its own,
identified by its values in memory.
"""

import functools
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import xxhash
from torch import nn

from lpp.capture.models.fingerprints import described
from lpp.store.errors import ErrorKind, InputError

_BLOCK: Final = 1 << 26
"""Most bytes of a weight that are copied at once."""

_PASSING: Final = frozenset(
    {*vars(nn.Module()), "gradient_checkpointing", "name_or_path", "max_seq_len_cached"}
)
"""Attributes of modules that change no number, or that are compared elsewhere."""

_BUFFER_TOLERANCE: Final = 1e-6
"""Relative tolerance: buffers are computed, and devices differ in the last bit."""

Tensors = Mapping[str, torch.Tensor]

_LIBRARIES: Final = ("transformers.", "torch.")
"""Prefixes of modules whose classes are defined by a release, which every plan records."""

_OF_TORCH: Final = frozenset(vars(nn.Module()))
"""Attributes of every module: parameters, buffers, modules and hooks, which are looked at
elsewhere."""


def equals_its_files(
    module: nn.Module, reference: nn.Module, named: Tensors, files: list[Path]
) -> bool:
    """Whether loading `files` gives `module`. Reads every weight once.

    reference: the modules that the configuration gives, with weights on the meta device and real
    buffers. named: the parameters of `module` by the names that files give them; a shared parameter
    has all of its names.
    """
    if _structure(module) != _structure(reference):
        return False
    weights, expected = _tensors(module), _tensors(reference)
    if weights.keys() != expected.keys() or _tied(module) != _tied(reference):
        return False
    if any(not _alike(weights[name], expected[name]) for name in weights):
        return False
    return _all_in_files(named, files, prefix=f"{getattr(module, 'base_model_prefix', '')}.")


def _all_in_files(named: Tensors, files: list[Path], prefix: str) -> bool:
    """Whether every weight equals one of its name in `files`, cast to its dtype.

    prefix: of names in a model with a head; files of the model without a head lack it.
    """
    from safetensors import safe_open

    missing = {id(weight) for weight in named.values()}
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for key in list(stored.keys()):
                weight = named.get(key, named.get(prefix + key))
                if weight is None:
                    continue  # loading does not use it either
                if not _equal(weight, stored.get_tensor(key)):
                    return False
                missing.discard(id(weight))
    return not missing


@torch.no_grad()
def _equal(weight: torch.Tensor, stored: torch.Tensor) -> bool:
    if weight.shape != stored.shape:
        return False
    return torch.equal(_bits(weight.detach().cpu()), _bits(stored.to(weight.dtype)))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor: NaN equals itself, and 0 is not -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _alike(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether dtype and shape are equal, and values too if `expected` has values."""
    if (tensor.dtype, tensor.shape) != (expected.dtype, expected.shape):
        return False
    if expected.is_meta:
        return True
    expected = expected.to(tensor.device)
    if not tensor.is_floating_point():
        return torch.equal(tensor, expected)
    return torch.allclose(tensor, expected, rtol=_BUFFER_TOLERANCE, atol=0, equal_nan=True)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, persistent or not, by name."""
    return dict(
        [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
    )


def _tied(module: nn.Module) -> list[tuple[str, ...]]:
    """Names of each parameter: several if it is shared."""
    names: dict[int, list[str]] = {}
    for name, weight in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    return sorted(tuple(group) for group in names.values())


def _structure(module: nn.Module) -> dict[str, Any]:
    """Class and plain settings of every module."""
    return {
        name: [f"{type(part).__module__}.{type(part).__qualname__}", _settings(part)]
        for name, part in module.named_modules()
    }


def _settings(part: nn.Module) -> dict[str, Any]:
    """Attributes that JSON can hold, without those of libraries' classes that begin with _."""
    libraries = type(part).__module__.startswith(_LIBRARIES)
    return {
        name: value
        for name, value in vars(part).items()
        if name not in _PASSING and not (libraries and name.startswith("_")) and _plain(value)
    }


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def state_fingerprint(module: Any) -> str:
    """xxh3_128 (hex) of what a model in memory computes with: configuration, modules, their
    settings and own code, and name, dtype, shape and bytes of every parameter and buffer.

    The same in every process that has the same model, on whatever device.
    """
    digest = xxhash.xxh3_128()
    for document in (described(module), _structure(module), _tied(module), _own_code(module)):
        digest.update(json.dumps(document, sort_keys=True, default=str).encode() + b"\0")
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        for block in _blocks(tensor):
            digest.update(block)
    return digest.hexdigest()


def _own_code(module: nn.Module) -> dict[str, str]:
    """Source of the files that define the modules' classes, except libraries' files."""
    sources = {}
    for kind in {type(part) for part in module.modules()}:
        if not kind.__module__.startswith(_LIBRARIES):
            name = f"{kind.__module__}.{kind.__qualname__}"
            try:
                sources[name] = inspect.getsource(sys.modules[kind.__module__])
            except (KeyError, OSError, TypeError):
                sources[name] = ""
    return sources


def check_described(module: Any) -> None:
    """Raise InputError if `module` computes with something that `state_fingerprint` does not cover:
    a class without a file to import, or an attribute that is neither a plain setting nor a
    library's.
    """
    configs = [module.config, *vars(module.config).values()]
    described = [config.to_dict() for config in configs if hasattr(config, "to_dict")]
    for name, part in module.named_modules():
        kind, which = type(part), f"the model's {name}" if name else "the model"
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            raise InputError(
                f"{which} is {kind.__name__}, a class that is defined in a notebook, a script or a "
                "function. A plan identifies a class by its file: put it into a file that can be "
                "imported, and make the model with the class from there.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )
        for attribute, value in vars(part).items():
            if attribute in _OF_TORCH or _plain(value) or _of_library(value, part):
                continue
            if attribute == "generation_config" or (
                attribute == "config" and hasattr(value, "to_dict") and value.to_dict() in described
            ):
                continue
            raise InputError(
                f"{which} has {attribute}, {type(value).__name__}, which no fingerprint covers. "
                "Make it a parameter, a buffer or a number; or leave it out.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )


def _of_library(value: Any, part: nn.Module) -> bool:
    """Whether a release of a library, or what the fingerprint covers, determines `value`."""
    if isinstance(value, dict):
        return all(_of_library(item, part) for item in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(_of_library(item, part) for item in value)
    if isinstance(value, functools.partial):
        return _of_library((value.func, value.args, value.keywords), part)
    if isinstance(value, torch.Tensor):
        return any(
            value is buffer or torch.equal(value, buffer) for buffer in part.buffers(recurse=False)
        )
    if isinstance(value, nn.Module):
        return any(value is module for module in part.modules())
    owner = value if hasattr(value, "__qualname__") else type(value)  # of a function or class
    home = str(getattr(owner, "__module__", ""))
    return _plain(value) or (home.startswith(_LIBRARIES) and not hasattr(value, "to_dict"))


@torch.no_grad()
def _blocks(tensor: torch.Tensor) -> Iterator[Any]:
    """The bytes of a tensor, one block at a time."""
    flat: Any = tensor.detach().reshape(-1)
    count = max(1, _BLOCK // max(1, flat.element_size()))
    for part in flat.split(count):
        yield part.cpu().contiguous().view(torch.uint8).numpy()
