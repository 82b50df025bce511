"""Open a corpus by its name or path. Passages are streamed: `lpp.capture.corpus.passages`."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lpp.capture.corpus.datasets import HUB_DATASETS, open_hub
from lpp.capture.corpus.files import open_files
from lpp.capture.corpus.passages import Corpus, Passage, Streamed, fingerprint_passages
from lpp.capture.corpus.pydoc import RULE, pydoc_passages
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import SILENT, Progress

__all__ = ["CORPUS_NAMES", "Corpus", "Passage", "open_corpus"]

CORPUS_NAMES: Final = ("pydoc", *sorted(HUB_DATASETS))
"""Names that `open_corpus` knows. Write ./name for a file or folder of the same name."""


def open_corpus(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    split: str | None = None,
    text_field: str | None = None,
    fields: Sequence[str] = (),
    token_fields: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Corpus:
    """The corpus of a known name, a `.jsonl`, `.parquet`, `.arrow`, `.csv` or `.txt` file, or a
    folder of them.

    revision, split: of a corpus on the hub, see `open_hub`. text_field: the field or column of the
    text, messages or token ids. fields: those to keep with the prompts. token_fields: those with a
    value for each token, of files. progress: gets notes of a download.

    Raises InputError if the name or file does not exist, has no text or is malformed; MachineError
    if the hub cannot be reached.
    """
    name = os.fspath(name_or_path)
    if name in CORPUS_NAMES and token_fields:
        raise InputError(
            f"--token-fields {token_fields[0]}: corpus {name} has no values by token. They come "
            "from .jsonl, .parquet or .arrow files."
        )
    if name in HUB_DATASETS:
        corpus = open_hub(
            name,
            revision=revision,
            split=split,
            text_field=text_field,
            fields=fields,
            progress=progress,
        )
    else:
        _refuse_hub_options(name, revision=revision, split=split)
        corpus = _open_local(name, text_field, fields, token_fields)
    if next(iter(corpus.passages), None) is None:
        refused = corpus.refused.summary()
        raise InputError(
            f"{name}: every text is empty{' or no text' if refused else ''}. "
            f"{_reasons(refused)}Give a corpus with text, or --corpus pydoc."
        )
    return corpus


def _reasons(refused: str) -> str:
    """Why texts were set aside, and a command that converts most of them."""
    if not refused:
        return ""
    helps = "Convert it, for example: iconv -f ISO-8859-1 -t UTF-8. " * ("not_utf8" in refused)
    return f"Set aside: {refused}. {helps}"


def _open_local(
    name: str, text_field: str | None, fields: Sequence[str], token_fields: Sequence[str]
) -> Corpus:
    if name != "pydoc":
        path = Path(name).expanduser()
        if not name or not os.path.exists(path):  # Path.exists raises on a name too long
            _not_found(name, path)
        return open_files(path, text_field=text_field, fields=fields, token_fields=token_fields)
    if text_field is not None or fields:
        option = "--fields" if text_field is None else "--text-field"
        raise InputError(f"Corpus pydoc has no fields to choose from. Leave {option} out.")
    passages = Streamed(pydoc_passages)
    return Corpus(
        name="pydoc",
        revision=None,
        fingerprint=fingerprint_passages(passages),
        rule=RULE,
        passages=passages,
    )


def _refuse_hub_options(name: str, **options: str | None) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(
                f"{name}: a {option} ({value!r}) only exists for {', '.join(HUB_DATASETS)}. "
                f"Leave the {option} out."
            )


def _not_found(name: str, path: Path) -> None:
    known = f"Known names: {', '.join(CORPUS_NAMES)}."
    aliases = {dataset.repo: short for short, dataset in HUB_DATASETS.items()}
    near = difflib.get_close_matches(name.lower(), [*CORPUS_NAMES, *aliases], n=1)
    if near:
        advice = f"Did you mean --corpus {aliases.get(near[0], near[0])}? {known}"
    else:
        here = path.parent if os.path.isdir(path.parent) else Path()
        siblings = difflib.get_close_matches(path.name, [p.name for p in here.iterdir()], n=1)
        advice = f"Did you mean {here / siblings[0]}?" if siblings else f"{known} See: ls {here}"
    raise InputError(
        f"Corpus {name!r}: neither a known name nor a file or folder. {advice}",
        kind=ErrorKind.NOT_FOUND,
    )
