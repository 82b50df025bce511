"""Fingerprints of weights and tokenizers: hashes of content, so that a name cannot mislead."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from lpp.store.errors import ErrorKind, InputError

_BLOCK = 4 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def weight_files(folder: Path, model: str) -> list[Path]:
    """The safetensors of a model folder; an error that names `model` if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = [
        file.name for end in ("bin", "pt", "pth", "ckpt") for file in folder.glob(f"*.{end}")
    ]
    if pickles:
        raise InputError(
            f"{model} has its weights only as pickles ({pickles[0]}), which can run code when "
            "loaded, so they are not. Convert them with transformers' save_pretrained, which "
            "writes safetensors, and give that folder.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    raise InputError(
        f"{model} has no weights: no .safetensors file in {folder}. Download or save it again.",
        kind=ErrorKind.NOT_FOUND,
    )


def weights_fingerprint(files: Iterable[Path]) -> str:
    """xxh3_128 (hex) over the names and content hashes of weight files; reads 4 MiB at a time.

    A file in the hub's cache is a link to a blob named by its sha256. That name is trusted: the
    hub's client checked it at the download.
    """
    digest = xxhash.xxh3_128()
    for file in sorted(files, key=lambda file: file.name):
        blob = file.resolve().name
        content = blob if _SHA256.fullmatch(blob) else _file_hash(file)
        digest.update(f"{file.name}\0{content}\n".encode())
    return digest.hexdigest()


def document_fingerprint(document: Any) -> str:
    """xxh3_128 (hex) of a JSON document, whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode())


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """xxh3_128 (hex) of everything that maps text to ids.

    A fast tokenizer serialises itself completely. One without a fast backend is identified by its
    vocabulary and its added tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        for setting in ("padding", "truncation"):  # settings of the last call, not of the tokenizer
            rules.pop(setting, None)
        return document_fingerprint(rules)
    return document_fingerprint([tokenizer.get_vocab(), tokenizer.get_added_vocab()])


def _file_hash(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def trained_fingerprint(model: Any, folder: Path, name: str, *, code: bool) -> str:
    """Fingerprint of weights, configuration and, if it may run, the model's own code.

    model: loaded, or created on the meta device. name: what the user called it.
    """
    code_files = sorted(folder.glob("*.py")) if code else []
    return document_fingerprint(
        {
            "weights": weights_fingerprint(weight_files(folder, name)),
            "config": described(model),
            "code": weights_fingerprint(code_files) if code_files else None,
        }
    )


def untrained_fingerprint(model: Any, seed: int) -> str:
    """Fingerprint of configuration, dtype and seed, which determine the weights."""
    return document_fingerprint(
        {"untrained_seed": seed, "dtype": str(model.dtype), "config": described(model)}
    )


def described(model: Any) -> dict[str, Any]:
    """The configuration without entries that depend on its path or on how it was loaded."""
    described: dict[str, Any] = model.config.to_dict()
    for passing in ("_name_or_path", "transformers_version", "use_cache", "dtype"):
        described.pop(passing, None)
    return described
