"""Whether a model's files have every weight that its configuration asks for.

Transformers draws a weight at random that the files lack, or have in another shape. Such a model is
refused. A weight that is tied to another, or that its class computes itself, is not missing.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import SILENT, Progress

LOADING: Final[Mapping[str, Any]] = {
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # `check_loaded` refuses them by name
    # Since 5.25 transformers puts kernels from the hub in place of layers by default, other ones on
    # each card and in each release. They do not know the meta device.
    "use_kernels": False,
}
"""Arguments of `from_pretrained`, which then returns (model, what `check_loaded` reads).

The model has the layers of its class, the same on every device.
"""

_NAMED: Final = 3
"""Most names of weights in a message."""


def check_loaded(name: str, info: Mapping[str, Any], progress: Progress = SILENT) -> None:
    """Raise InputError if weights were drawn, with their number and the first names.

    info: what `from_pretrained` says with `LOADING`. progress: gets a line on weights of the files
    that the model has no place for.
    """
    missing, unused = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    shapes = sorted(info["mismatched_keys"])
    lost = [f"lack {listed(missing)}"] if missing else []
    if shapes:
        weight, there, wanted = shapes[0]
        lost.append(
            f"have {listed(key for key, *_ in shapes)} in another shape ({weight}: "
            f"{tuple(there)}, not {tuple(wanted)})"
        )
    others = f" They have {listed(unused)} instead." if unused and missing else ""
    if lost:
        raise InputError(
            f"the files of {name} {' and '.join(lost)}, which its config.json asks for. Weights "
            f"that are not there would be drawn at random.{others} Save the whole causal language "
            "model with save_pretrained, under transformers' names, and give that folder. For "
            "random weights, say so: --untrained-seed 0. For rows alone of a model without a head: "
            "--logit-positions none.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    scales = [key for key in unused if "weight_scale" in key]
    if any(f"{key.partition('weight_scale')[0]}weight" not in unused for key in scales):
        raise InputError(
            f"the files of {name} have {listed(scales)} that its config.json does not tell of: "
            "quantised weights would be read without their scales. "
            "Give a copy in a format that docs/troubleshooting.md lists.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    if unused:
        progress.warn(f"the model does not use {listed(unused)} in the files of {name}")


def beside_packed(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """`info` of quantised files that were read as if they were not: a weight is there if the files
    have anything in its module, whatever its name and shape.
    """
    unused = info["unexpected_keys"]
    there = {key.rsplit(".", up)[0] for key in unused for up in range(1, key.count(".") + 1)}
    missing = [key for key in info["missing_keys"] if key.rpartition(".")[0] not in there]
    return {"missing_keys": missing, "unexpected_keys": (), "mismatched_keys": ()}


def without_head(model: Any, info: Mapping[str, Any]) -> Mapping[str, Any]:
    """`info` of a model whose logits nobody reads: its files may lack the head.

    A head that they lack takes the embedding's matrix, if that has its shape: it is then no
    parameter of its own, and costs no memory.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    name = next((name for name, part in model.named_modules() if part is head), None)
    missing = set(info["missing_keys"]) - {f"{name}.weight", f"{name}.bias"}
    if len(missing) < len(info["missing_keys"]) and head.weight.shape == embedding.weight.shape:
        head.weight = embedding.weight
    return {**info, "missing_keys": missing}


def listed(keys: Iterable[str]) -> str:
    """Number and first names of weights."""
    names = list(keys)
    more = ", ..." if len(names) > _NAMED else ""
    count = f"{len(names)} weight{'s' * (len(names) > 1)}"
    return f"{count} ({', '.join(names[:_NAMED])}{more})"
