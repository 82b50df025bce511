"""The tokens of a tokenizer as text: the bytes of each token, and a readable form.

A tokenizer writes its tokens in its own alphabet, which its decoder defines. Three alphabets are
supported, and cover most models: byte-level BPE (a character for each byte), sentencepiece (`▁` is
a space, `<0x0A>` is a byte) and WordPiece (`##` continues a word). The result is compared with the
tokenizer's own decoding. If the two differ, or the decoder is another one, a token has a text and
no bytes.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa

from lpp.store.format.tables import VOCABULARY_SCHEMA

_SAMPLE: Final = 256
"""Tokens whose bytes are compared with what the tokenizer decodes."""

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, kw_only=True)
class _Alphabet:
    """How a tokenizer writes its tokens."""

    read: Callable[[str], bytes]
    """Maps a token as it is written to its bytes."""
    words: bool = False
    """Whether tokens are words and ends of words: a space between words belongs to no token."""


def vocabulary(tokenizer: Any) -> pa.Table:
    """Every token of a transformers tokenizer by ascending id, (n, 3) `VOCABULARY_SCHEMA`.

    `bytes`: those of the text as the tokenizer normalises it, which may be in lower case; part of a
    character if several tokens share one. Null for special tokens, which have no text, and if the
    bytes are unknown. `text`: the bytes as UTF-8, with U+FFFD for part of a character; the name of
    a special token; in WordPiece the token as it is written.

    Raises whatever a tokenizer raises if it cannot list its tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        ids = sorted({*tokenizer.get_vocab().values()})
        return _table(ids, {}, {token: tokenizer.decode([token]) for token in ids})
    ids = sorted({*backend.get_vocab(with_added_tokens=True).values()})
    written = {token: backend.id_to_token(token) for token in ids}
    of_model = {*backend.get_vocab(with_added_tokens=False).values()}
    special = {*tokenizer.all_special_ids}
    special |= {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    alphabet = _alphabet(backend)
    spelled: dict[int, bytes] = {}
    if alphabet is not None:
        ordinary = [token for token in ids if token in of_model and token not in special]
        spelled = {token: alphabet.read(written[token]) for token in ordinary}
        if not _is_decoded(spelled, backend, words=alphabet.words):
            alphabet, spelled = None, {}
    # an added token occurs in a text as it is written, whatever the alphabet
    spelled |= {i: written[i].encode() for i in ids if i not in of_model and i not in special}
    texts = dict(written)
    if alphabet is None:
        unknown = [token for token in ids if token not in spelled and token not in special]
        decoded = backend.decode_batch([[token] for token in unknown], skip_special_tokens=False)
        texts.update(zip(unknown, decoded, strict=True))
    elif not alphabet.words:
        texts |= {token: read.decode(errors="replace") for token, read in spelled.items()}
    return _table(ids, spelled, texts)


def _table(ids: Sequence[int], spelled: Mapping[int, bytes], texts: Mapping[int, str]) -> pa.Table:
    # a tokenizer in Python may give half a surrogate pair, which is no text
    plain = [texts[token].encode(errors="replace").decode() for token in ids]
    columns = [ids, [spelled.get(token) for token in ids], plain]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, VOCABULARY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=VOCABULARY_SCHEMA)


def _alphabet(backend: Any) -> _Alphabet | None:
    """The alphabet that the decoder of a tokenizer expects; None if it is not supported."""
    if backend.decoder is None:
        return None
    rules = json.loads(backend.decoder.__getstate__())
    steps = rules["decoders"] if rules["type"] == "Sequence" else [rules]
    by_type = {step["type"]: step for step in steps}
    kinds = {*by_type}
    if "ByteLevel" in kinds and kinds <= {"ByteLevel", "Fuse"}:
        return _Alphabet(read=_byte_level)
    if kinds == {"WordPiece"}:
        prefix = by_type["WordPiece"]["prefix"]
        return _Alphabet(read=lambda token: token.removeprefix(prefix).encode(), words=True)
    if not kinds <= {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}:
        return None
    if "Metaspace" in kinds:
        space = by_type["Metaspace"]["replacement"]
    elif by_type.get("Replace", {}).get("content") == " ":
        space = by_type["Replace"]["pattern"].get("String")
    else:
        return None
    return _sentencepiece(space, bytes_too="ByteFallback" in kinds) if space else None


def _sentencepiece(space: str, *, bytes_too: bool) -> _Alphabet:
    """The alphabet. space: the character for a space. bytes_too: whether `<0x0A>` is a byte."""

    def read(token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token) if bytes_too else None
        return bytes([int(byte[1], 16)]) if byte else token.replace(space, " ").encode()

    return _Alphabet(read=read)


@cache
def _characters() -> Mapping[str, int]:
    """The character that byte-level BPE writes for each byte.

    A printable character stands for itself; the other bytes have those from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    return byte_of | {chr(0x100 + number): byte for number, byte in enumerate(others)}


def _byte_level(token: str) -> bytes:
    known = _characters()
    try:
        return bytes(known[character] for character in token)
    except KeyError:  # the decoder also keeps such a token as it is written
        return token.encode()


def _is_decoded(spelled: Mapping[int, bytes], backend: Any, *, words: bool) -> bool:
    """Whether the decoder gives the bytes in `spelled` for a sample of the tokens in sequence.

    Spaces at the start are ignored: a decoder removes one that its tokenizer has added. words: all
    spaces are ignored.
    """
    whole = [token for token, read in spelled.items() if _is_text(read)]
    sample = whole[:: max(1, len(whole) // _SAMPLE)]
    decoded: str = backend.decode(sample, skip_special_tokens=False)
    expected = b"".join(spelled[token] for token in sample).decode()
    if words:
        return "".join(decoded.split()) == "".join(expected.split())
    return decoded.lstrip(" ") == expected.lstrip(" ")


def _is_text(read: bytes) -> bool:
    try:
        read.decode()
    except UnicodeDecodeError:
        return False
    return True
