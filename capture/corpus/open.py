"""Open a corpus: by its name, of local files, or of texts in memory."""

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from lpp.capture.corpus.datasets import HUB_DATASETS, open_hub
from lpp.capture.corpus.fields import Fields
from lpp.capture.corpus.files import open_files
from lpp.capture.corpus.passages import (
    Corpus,
    Passage,
    Refused,
    Streamed,
    fingerprint_passages,
)
from lpp.capture.corpus.pydoc import RULE, pydoc_passages
from lpp.capture.corpus.rows import (
    Value,
    as_list,
    default_field,
    is_list_of_rows,
    passage_of,
)
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


DEFAULT_NAME: Final = "texts"
"""Default name of a corpus in memory."""


def open_texts(
    texts: Iterable[Any],
    *,
    name: str = DEFAULT_NAME,
    text_field: str | None = None,
    fields: Sequence[str] = (),
    token_fields: Sequence[str] = (),
) -> Corpus:
    """The corpus of `texts`, read once and kept in memory.

    texts: strings, or records (dicts) whose field `text_field` is the text, the messages or the
    token ids, by default the first of `rows.DEFAULT_FIELDS`; of a data frame or table, the rows.
    fields: those of a record to keep with the prompts. token_fields: those with a value for each
    token. The fingerprint is that of the texts in order. A row whose text is missing or blank is
    set aside and counted, as in a file.

    Raises InputError for a row of another type, and if there is no text at all.
    """
    if not name or os.sep in name:
        raise InputError(f"corpus_name {name!r}: give a name without {os.sep}, such as 'texts'.")
    refused, passages = Refused(), list[Passage]()
    records = iter(_rows(texts))
    first = next(records, None)
    field = text_field or default_field(first if isinstance(first, Mapping) else ())
    carried = Fields(fields, text=field, per_token=token_fields)
    if (fields or token_fields) and not isinstance(first, Mapping):
        name = "fields" if fields else "token_fields"
        raise InputError(
            f"{name}: texts are strings, which have none. Give records, or leave it out."
        )
    for row, (record, place, text) in enumerate(_texts(chain([first], records), field)):
        value, of_row = text, carried.of(record) if isinstance(record, Mapping) else {}
        if isinstance(record, Mapping):
            value = as_list(field, text, place)
        passage = passage_of(row, value, of_row, place, refused)
        if passage is not None:
            passages.append(passage)
    if not passages:
        reasons = refused.summary()
        why = f" or set aside: {reasons}" if reasons else ""
        raise InputError(f"texts: every text is empty{why}. Give at least one text.")
    return Corpus(
        name=name,
        revision=None,
        fingerprint=fingerprint_passages(passages),
        rule=f"field {field}" if isinstance(first, Mapping) else "texts",
        passages=passages,
        refused=refused,
        fields=carried,
    )


def _rows(texts: Any) -> Any:
    """The rows of `texts`. Iterating over a data frame would give its columns."""
    if hasattr(texts, "to_pylist"):  # Arrow: a table gives records, a column its values
        return texts.to_pylist()
    if hasattr(texts, "iter_rows"):  # Polars
        return texts.iter_rows(named=True)
    if hasattr(texts, "columns") and hasattr(texts, "to_dict"):  # pandas
        return texts.to_dict("records")
    if isinstance(texts, Mapping):
        splits = ", ".join(map(repr, list(texts)[:5]))
        raise InputError(f"texts is a mapping of {splits}: give one of its values.")
    try:
        return iter(texts)
    except TypeError:
        raise InputError(
            f"texts is {type(texts).__name__}: give a list of strings, records with a field "
            "'text', or the name of a corpus."
        ) from None


def _texts(records: Iterable[Any], field: str) -> Iterator[tuple[Any, str, Value]]:
    """(row, place, text) of every row; text None if it is missing."""
    for number, record in enumerate(records):
        place, text = f"texts[{number}]", record
        if isinstance(record, Mapping):
            if field not in record:
                names = ", ".join(map(repr, record)) or "none"
                raise InputError(
                    f"{place}: no field {field!r}; its fields: {names}. Name one with text_field."
                )
            text = record[field]
        if isinstance(record, Mapping) and hasattr(text, "tolist"):  # an array, a tensor
            text = text.tolist()
        if text is None or (isinstance(text, float) and math.isnan(text)):  # pandas' missing value
            yield record, place, None
        elif isinstance(text, str) or (isinstance(record, Mapping) and is_list_of_rows(text)):
            yield record, place, text
        else:
            raise InputError(f"{place}: {type(text).__name__} instead of a string.")
