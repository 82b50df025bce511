"""The modules of a loaded model, and the inputs and outputs of its forward pass."""

import inspect
from typing import Any, Final

import torch
from torch import nn

from lpp.store.errors import ErrorKind, InputError

PROBE_SHAPE: Final = (2, 7)
"""Prompts and tokens of the pass on which a model is watched."""


def forward_inputs(input_ids: torch.Tensor) -> dict[str, Any]:
    """Keyword arguments of a forward pass over right-padded prompts.

    input_ids: (batch, tokens), prompts on the left, any token on the right. No mask is passed:
    attention is causal and positions count from the left, so no real token depends on the padding
    after it, and attention keeps its fast causal path. `check_sites` proves it for the loaded
    model.
    """
    return {"input_ids": input_ids, "use_cache": False}


def cache_name(model: nn.Module) -> str:
    """The name of transformers' argument for a cache, which changed with 5.24."""
    names = inspect.signature(type(model).forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def input_device(model: nn.Module) -> torch.device:
    """The device for token ids: the embedding's, also when accelerate moves weights to it."""
    embedding = _embedding(model)
    hook = getattr(embedding, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is not None:
        return torch.device(device)
    return next(embedding.parameters()).device


def probe_ids(model: nn.Module) -> torch.Tensor:
    """(2, 7) token ids to watch or check a model on; the two rows differ in every token."""
    vocabulary = int(getattr(_embedding(model), "num_embeddings", 100))
    prompts, tokens = PROBE_SHAPE
    ids = torch.arange(3, 3 + prompts * tokens, device=input_device(model)) % vocabulary
    return ids.view(PROBE_SHAPE)


def spread_ids(model: nn.Module, count: int) -> torch.Tensor:
    """(count,) distinct token ids from the whole vocabulary: its first ones are often special or
    never trained.
    """
    vocabulary = int(getattr(_embedding(model), "num_embeddings", 100))
    middles = 2 * torch.arange(count, device=input_device(model)) + 1
    return middles * vocabulary // (2 * count)


def text_config(model: nn.Module) -> Any:
    """The part of a model's configuration that describes its language model."""
    config: Any = getattr(model, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    return config if get_text_config is None else get_text_config()


def block_count(config: Any) -> Any:
    """Blocks of a text configuration; LongCat's `num_hidden_layers` counts two for each."""
    return getattr(config, "num_layers", None) or getattr(config, "num_hidden_layers", None)


def output_embeddings(model: nn.Module) -> nn.Module:
    """The module that turns final states into logits."""
    get: Any = getattr(model, "get_output_embeddings", None)
    unembedding = None if get is None else get()
    if not isinstance(unembedding, nn.Module):
        raise unmapped(model, "it has no unembedding (get_output_embeddings)")
    return unembedding


def logits_width(model: Any) -> int:
    """Columns of the logits, V; the tokenizer may have fewer entries."""
    unembedding = model.get_output_embeddings()
    width = getattr(unembedding, "out_features", None) or unembedding.weight.shape[0]
    return int(width)


def max_positions(config: Any) -> int | None:
    """Positions up to which a state depends on nothing but the tokens before it.

    Rotary scalings that switch with the prompt's length (Phi-3's longrope, dynamic NTK) are limited
    to their original length: beyond it, the same prefix has other states in a longer prompt.
    """
    if getattr(config, "alibi", False):
        return None
    limit = getattr(config, "max_position_embeddings", None)
    rope: dict[str, Any] = (
        getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    )
    if rope.get("rope_type", rope.get("type")) in ("longrope", "dynamic", "su"):
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        limit = original or limit
    return None if limit is None else int(limit)


def first_tensor(value: Any) -> torch.Tensor | None:
    """The state in a module's output: a tensor, or the first of a tuple or of a model output."""
    if isinstance(value, torch.Tensor):
        return value
    try:
        first = value[0]
    except (TypeError, IndexError, KeyError):
        return None
    return first if isinstance(first, torch.Tensor) else None


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The state that a module was called on, by position or by the name that every family uses."""
    return first_tensor(args) if args else first_tensor(kwargs.get("hidden_states"))


def routing(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """The experts of each token and their weights, both (..., top k), among the arguments of the
    module that runs the experts; (None, None) if they are not.
    """
    given = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.ndim > 1]
    integers = [tensor for tensor in given if tensor.dtype in (torch.int64, torch.int32)]
    floats = [tensor for tensor in given if tensor.is_floating_point()]
    pairs = ((i, f) for i in integers for f in floats if i.shape == f.shape)
    return next(pairs, (None, None))


def unmapped(model: nn.Module, why: str) -> InputError:
    """The error for a model that cannot be captured: why, and its module tree."""
    return InputError(
        f"{type(model).__name__} cannot be captured: {why}. Its modules:\n"
        f"{module_tree(model)}\n"
        "`lpp-capture models NAME` says what was found of a class.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )


def module_tree(model: nn.Module, *, depth: int = 3, lines: int = 20) -> str:
    """The upper levels of a model's modules, with a list of modules shown as one line."""
    tree = [f"  {type(model).__name__}", *_branches(model, depth, indent=4)]
    if len(tree) > lines:
        tree = [*tree[: lines - 1], f"    ... {len(tree) - lines + 1} more"]
    return "\n".join(tree)


def _branches(module: nn.Module, depth: int, indent: int) -> list[str]:
    tree: list[str] = []
    if depth == 0:
        return tree
    for name, child in module.named_children():
        pad = " " * indent
        if isinstance(child, nn.ModuleList):
            kinds = ", ".join(sorted({type(entry).__name__ for entry in child}))
            tree.append(f"{pad}{name}: list of {len(child)} {kinds}")
        else:
            tree.append(f"{pad}{name}: {type(child).__name__}")
            tree += _branches(child, depth - 1, indent + 2)
    return tree


def _embedding(model: nn.Module) -> nn.Module:
    get: Any = getattr(model, "get_input_embeddings", None)
    embedding = None if get is None else get()
    if not isinstance(embedding, nn.Module):
        raise unmapped(model, "it has no embedding of token ids (get_input_embeddings)")
    return embedding
