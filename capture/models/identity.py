"""What identifies a model that the caller has loaded: its state, and the numbers that it computes.

A notebook can change what a model computes without changing its state: a method of a class, a
function of a module, an attention kernel, a hook. No list of such places is complete, so two short
prompts are run through the model, and what they give is part of the fingerprint.
"""

import inspect
import json
import sys
from collections.abc import Iterator
from typing import Any, Final

import torch
import xxhash
from torch import nn

from lpp.capture.models.fingerprints import described
from lpp.capture.models.structure.anatomy import cache_name, probe_ids

_BLOCK: Final = 1 << 26
"""Most bytes of a tensor that are copied at once."""

_PASSING: Final = frozenset(
    {*vars(nn.Module()), "gradient_checkpointing", "name_or_path", "max_seq_len_cached"}
)
"""Attributes of modules that change no number, or that are looked at elsewhere."""

_LIBRARIES: Final = ("transformers.", "torch.")
"""Prefixes of modules whose classes are defined by a release, which every plan records."""

_HOOKS_OF_LIBRARIES: Final = ("transformers.", "accelerate.", "torch.nn.utils.")
"""Prefixes of modules whose hooks record outputs, move weights between devices, or compute a weight
from parameters that the fingerprint covers."""


def loaded_fingerprint(module: Any) -> str:
    """xxh3_128 (hex) of a model in memory: configuration, modules, their settings, hooks and own
    code; name, dtype, shape and bytes of every parameter and buffer; and what two prompts give.

    The same in every process that has the same model, on machines whose kernels give the same bits.
    Reads every weight once. Costs two passes on one thread: over 14 tokens, and over 2.
    """
    digest = xxhash.xxh3_128()
    for document in (described(module), _structure(module), _tied(module), _own_code(module)):
        digest.update(json.dumps(document, sort_keys=True, default=str).encode() + b"\0")
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        for block in _blocks(tensor):
            digest.update(block)
    for rows in _rows(module):
        digest.update(rows)
    return digest.hexdigest()


def _structure(module: nn.Module) -> dict[str, Any]:
    """Class, plain settings and hooks of every module."""
    return {
        name: [f"{type(part).__module__}.{type(part).__qualname__}", _settings(part), _hooks(part)]
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


def _hooks(part: nn.Module) -> list[str]:
    """Names of the hooks that no library set, and of a forward method set on the module."""
    found = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
    if not hasattr(part, "_hf_hook"):  # accelerate sets a forward method too
        found += [vars(part)["forward"]] if "forward" in vars(part) else []
    named = [value if hasattr(value, "__qualname__") else type(value) for value in found]
    names = [f"{getattr(value, '__module__', '')}.{value.__qualname__}" for value in named]
    return [name for name in names if not name.startswith(_HOOKS_OF_LIBRARIES)]


def _tied(module: nn.Module) -> list[tuple[str, ...]]:
    """Names of each parameter: several if it is shared."""
    names: dict[int, list[str]] = {}
    for name, weight in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    return sorted(tuple(group) for group in names.values())


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


@torch.inference_mode()
def _rows(module: Any) -> Iterator[Any]:
    """The states and logits of two prompts of 7 tokens, and the logits of one more token after the
    keys and values of these, each as bytes of float32.

    On one thread: products are added in another order with another number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ids = probe_ids(module)
        first = module(input_ids=ids, output_hidden_states=True, use_cache=True)
        rows = [first.logits, *(first.hidden_states or ())]
        name = cache_name(module)
        if (cache := getattr(first, name, None)) is not None:
            rows.append(module(input_ids=ids[:, :1], **{name: cache}).logits)
        for tensor in rows:
            yield from _blocks(tensor.float())
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _blocks(tensor: torch.Tensor) -> Iterator[Any]:
    """The bytes of a tensor, one block at a time."""
    flat: Any = tensor.detach().reshape(-1)
    count = max(1, _BLOCK // max(1, flat.element_size()))
    for part in flat.split(count):
        yield part.cpu().contiguous().view(torch.uint8).numpy()
