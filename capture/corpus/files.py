"""Local text as a corpus: `.jsonl`, `.parquet`, `.txt`, or a folder of them.

    .jsonl     one JSON object a line; the text is its field `text`, or --text-field
    .parquet   the text is the column `text`, or --text-field
    .txt       one passage per paragraph: paragraphs are parted by blank lines
    folder     every such file below it, hidden ones left out, by relative path

Files are read as streams: memory is bounded by the longest passage. UTF-8 with or without
byte order mark, lines ended by LF or CRLF. A row whose text is null, blank or not UTF-8 is set
aside but counted, so `source_row` still locates the others; any other text is taken as it stands.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import xxhash

from lpp.capture.corpus.passages import Corpus, Passage, Refused, Streamed
from lpp.capture.corpus.readers import Row, Unreadable, jsonl_rows, parquet_rows, txt_rows
from lpp.store.errors import ErrorKind, InputError

_READERS: Final[dict[str, Callable[[Path, str], Iterator[Row]]]] = {
    ".jsonl": jsonl_rows,
    ".parquet": parquet_rows,
    ".txt": txt_rows,
}
_FORMATS: Final = ", ".join(_READERS)
_HASH_BLOCK: Final = 1 << 20
DEFAULT_FIELD: Final = "text"


def open_files(path: Path, *, text_field: str | None = None) -> Corpus:
    """The corpus of a file or folder that exists. Every byte is read once, for the fingerprint.

    InputError: no file of a known kind, nothing in it, unreadable.
    """
    files = _find_files(path)
    names = [path.name] if path.is_file() else [f.relative_to(path).as_posix() for f in files]
    if text_field is not None and all(file.suffix.lower() == ".txt" for file in files):
        raise InputError(
            f"{path}: text files have no fields to choose {text_field!r} from. "
            "Leave --text-field out, or give .jsonl or .parquet files.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if not any(file.stat().st_size for file in files):
        raise InputError(f"{path}: empty. Give a file with text.", kind=ErrorKind.INVALID_VALUE)
    field, refused = text_field or DEFAULT_FIELD, Refused()
    return Corpus(
        name=path.resolve().name,
        revision=None,
        fingerprint=_fingerprint(files, names),
        rule="paragraphs" if all(f.suffix.lower() == ".txt" for f in files) else f"field {field}",
        files=tuple(names),
        passages=Streamed(lambda: _passages(files, field, refused)),
        refused=refused,
    )


def _passages(files: list[Path], field: str, refused: Refused) -> Iterator[Passage]:
    row = 0
    for file in files:
        for place, text in _READERS[file.suffix.lower()](file, field):
            if isinstance(text, Unreadable):
                refused.add(row, text.reason, text.detail)
            elif text and not text.isspace():
                yield Passage(row, text)
            else:
                refused.add(row, "empty", place)
            row += 1


def _find_files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in _READERS:
            raise InputError(
                f"{path}: not one of the kinds of text read here: {_FORMATS}. "
                'Turn it into lines of {"text": "..."} and name it .jsonl.',
                kind=ErrorKind.INVALID_VALUE,
            )
        return [path]
    files = [
        Path(folder, name)
        for folder, folders, names in _walk(path)
        for name in names
        if Path(name).suffix.lower() in _READERS and not name.startswith(".")
    ]
    if not files:
        raise InputError(
            f"{path}: no {_FORMATS} files in this folder or below it. "
            "Give the folder that holds the texts.",
            kind=ErrorKind.NOT_FOUND,
        )
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` without hidden folders; links to folders are not followed, so it ends."""
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield folder, folders, names


def _fingerprint(files: list[Path], names: list[str]) -> str:
    """xxh3_128 over name, size and content of every file, in order."""
    digest = xxhash.xxh3_128()
    for file, name in zip(files, names, strict=True):
        raw = name.encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(8, "little") + raw)
        try:
            with file.open("rb") as stream:
                digest.update(os.fstat(stream.fileno()).st_size.to_bytes(8, "little"))
                while block := stream.read(_HASH_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise InputError(
                f"{file}: cannot be read ({error.strerror}). Check its permissions: ls -l {file}",
                kind=ErrorKind.INVALID_VALUE,
            ) from None
    return digest.hexdigest()
