"""Corpora by name from the Hugging Face hub, each pinned to a commit.

    alpaca     tatsu-lab/alpaca                 instruction, input and output of a row
    dolly      databricks/databricks-dolly-15k  instruction, context and response of a row
    wikitext   Salesforce/wikitext              articles of wikitext-103-raw-v1

Only blank lines join the parts of an instruction row. With the datasets' own templates ("Below is
an instruction that describes a task ...", in alpaca's column `text`), every prompt would begin with
the same forty tokens, and an entropy floor within them means nothing (METRICS: `template`). The
text includes the answer because instructions alone are short: few have 512 bytes, and hardly any
has 200 tokens. With `text_field`, one column is read unchanged instead.

A wikitext article is its paragraphs without its headings; otherwise every prompt would begin with
the same " = ".

The hub's client downloads the snapshot of the pinned commit, and `datasets` reads that folder. If
`datasets` got the name of the dataset instead, it would, without a network, silently read the
revision cached last, after half a minute of retries. No code of a dataset ever runs.
"""

import errno
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from lpp.capture.corpus.fields import Fields
from lpp.capture.corpus.passages import Corpus, Passage, Streamed, fingerprint_passages
from lpp.capture.downloads import download
from lpp.store.errors import ErrorKind, InputError, LppError, MachineError
from lpp.store.process.packages import install_command
from lpp.store.progress import SILENT, Progress

DatasetRows: TypeAlias = Iterable[tuple[str | None, ...]]
"""The chosen columns of each row, in order."""

_TIMEOUT_S: Final = 10.0
"""If a request takes longer, the hub is treated as unreachable."""

_BATCH_ROWS: Final = 1000
LOCAL_ALTERNATIVES: Final = (
    "Use text of your own (--corpus texts.jsonl, .parquet, .txt or a folder of them) "
    "or the built-in passages (--corpus pydoc)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """A dataset with a short name: its place on the hub, and how its rows become texts."""

    repo: str
    config: str | None
    revision: str
    """Full commit hash; pins the content of the corpus."""
    files: tuple[str, ...]
    """Patterns of files to download: the card, which maps splits to files, and one config."""
    columns: tuple[str, ...]
    rule: str
    passages: Callable[[DatasetRows], Iterator[Passage]]


def joined_columns(rows: DatasetRows) -> Iterator[Passage]:
    """The non-blank columns of each row, joined by blank lines."""
    for row, columns in enumerate(rows):
        parts = [text.strip() for text in columns if text]
        if text := "\n\n".join(part for part in parts if part):
            yield Passage(row, text)


def whole_column(rows: DatasetRows) -> Iterator[Passage]:
    """One column, unchanged; rows without text are skipped."""
    for row, (text,) in enumerate(rows):
        if text and not text.isspace():
            yield Passage(row, text)


_TITLE = re.compile(r" = [^=]+ = \n?")
_HEADING = re.compile(r"( =)+ .* (= )+\n?")


def wikitext_articles(rows: DatasetRows) -> Iterator[Passage]:
    """Paragraphs (one a row) up to the next title, joined by blank lines, without headings.

    `source_row` is the row of the first paragraph. A few paragraphs look like titles; there an
    article ends early.
    """
    start, paragraphs = 0, list[str]()
    for row, (line,) in enumerate(rows):
        if line and _TITLE.fullmatch(line) and paragraphs:
            yield Passage(start, "\n\n".join(paragraphs))
            paragraphs = []
        if line and not line.isspace() and not _HEADING.fullmatch(line):
            start = start if paragraphs else row
            paragraphs.append(line.strip())
    if paragraphs:
        yield Passage(start, "\n\n".join(paragraphs))


HUB_DATASETS: Final = {
    "alpaca": HubDataset(
        repo="tatsu-lab/alpaca",
        config=None,
        revision="dce01c9b08f87459cf36a430d809084718273017",
        files=("README.md", "data/*"),
        columns=("instruction", "input", "output"),
        rule="instruction, input, output",
        passages=joined_columns,
    ),
    "dolly": HubDataset(
        repo="databricks/databricks-dolly-15k",
        config=None,
        revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
        files=("README.md", "*.jsonl"),
        columns=("instruction", "context", "response"),
        rule="instruction, context, response",
        passages=joined_columns,
    ),
    "wikitext": HubDataset(
        repo="Salesforce/wikitext",
        config="wikitext-103-raw-v1",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        files=("README.md", "wikitext-103-raw-v1/*"),
        columns=("text",),
        rule="articles without headings",
        passages=wikitext_articles,
    ),
}


def open_hub(
    name: str,
    *,
    revision: str | None = None,
    split: str | None = None,
    text_field: str | None = None,
    fields: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Corpus:
    """The corpus `name` of `HUB_DATASETS`, downloaded unless cached. Reads every text once.

    revision: instead of the pinned commit; the commit of a branch or tag is recorded. split:
    instead of `train`. text_field: read this column unchanged instead of applying the rule.
    fields: columns to keep with the prompts. progress: gets notes of what is downloaded and read.

    Raises MachineError if `datasets` is missing, the hub is unreachable and nothing is cached, or
    the disk is full; InputError for an unknown revision, split or column.
    """
    known = HUB_DATASETS[name]
    folder = _snapshot(name, known, revision or known.revision, progress)
    progress.note(f"reading {name}")
    dataset = _load(name, known, folder, split or "train")
    columns = known.columns if text_field is None else (text_field,)
    _check_columns(name, columns, dataset)
    to_passages = known.passages if text_field is None else whole_column
    passages = Streamed(lambda: to_passages(_rows(dataset, columns)))
    more = Fields(fields, text=columns[0] if len(columns) == 1 else None)
    more.note(dataset.column_names)
    held = [column for column in more.to_read if column in dataset.column_names]
    beside = dataset.select_columns(held)
    return Corpus(
        name=name if split in (None, "train") else f"{name}/{split}",
        revision=folder.name,  # the folder of a snapshot is named after its commit
        fingerprint=fingerprint_passages(passages),
        rule=known.rule if text_field is None else f"field {text_field}",
        passages=passages,
        fields=more,
        fields_of=lambda passage: beside[passage.source_row] if held else {},
    )


def _snapshot(name: str, known: HubDataset, revision: str, progress: Progress) -> Path:
    """Folder of the files at a commit, named after it; from the cache if the hub is unreachable."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        _no_package(name)
    offline: Exception | None = None
    try:
        info = HfApi().dataset_info(known.repo, revision=revision, timeout=_TIMEOUT_S)
        revision = info.sha or revision
    except RevisionNotFoundError:
        raise InputError(
            f"Corpus {name}: {known.repo} has no revision {revision!r}. "
            f"Leave the revision out to read the pinned one, {known.revision}.",
            kind=ErrorKind.NOT_FOUND,
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"Corpus {name}: the hub has no dataset {known.repo}, or none your token may read "
            f"(see: hf auth whoami). {LOCAL_ALTERNATIVES}",
            kind=ErrorKind.NOT_FOUND,
        ) from None
    except (
        Exception
    ) as error:  # of requests or httpx, depending on the release: no common base class
        offline = error
    try:
        return download(
            known.repo,
            progress,
            repo_type="dataset",
            revision=revision,
            allow_patterns=list(known.files),
            local_files_only=offline is not None,
        )
    except Exception as error:
        _failed_download(name, known, revision, offline or error)


def _failed_download(name: str, known: HubDataset, revision: str, error: Exception) -> NoReturn:
    raise_if_disk_full(name, error)
    cause = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    include = " ".join(f"--include {shlex.quote(pattern)}" for pattern in known.files)
    raise MachineError(
        f"Corpus {name}: cannot fetch {known.repo} from the Hugging Face hub ({cause}), and the "
        f"cache has no complete copy. On a machine with a network: `hf download {known.repo} "
        f"--repo-type dataset --revision {revision} {include}`. {LOCAL_ALTERNATIVES}",
        kind=ErrorKind.NOT_FOUND,
    ) from None


def _load(name: str, known: HubDataset, folder: Path, split: str) -> Any:
    """The split as a memory-mapped table. `datasets` keeps an Arrow copy in its own cache."""
    try:
        import datasets
    except ImportError:
        _no_package(name)
    try:
        with without_bars():
            splits = datasets.get_dataset_split_names(str(folder), known.config)
            if split not in splits:
                raise InputError(
                    f"Corpus {name}: no split {split!r}; it has: {', '.join(splits)}. "
                    "Choose one of these.",
                    kind=ErrorKind.NOT_FOUND,
                )
            return datasets.load_dataset(str(folder), known.config, split=split)
    except LppError:
        raise
    except Exception as error:  # datasets raises many types for parser errors
        raise_if_disk_full(name, error)
        raise InputError(
            f"Corpus {name}: {folder} does not read as {known.repo} "
            f"({type(error).__name__}: {error}). Remove that folder to download it again.",
            kind=ErrorKind.CORRUPT,
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Until the block ends, `datasets` prints no bars."""
    from datasets import utils

    silent = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            utils.enable_progress_bars()


def raise_if_disk_full(name: str, error: BaseException) -> None:
    """MachineError(NO_SPACE) if a full disk is among the causes of `error`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            raise MachineError(
                f"Corpus {name}: no space left for the download. "
                "Free some, or set HF_HOME to a folder on a larger disk.",
                kind=ErrorKind.NO_SPACE,
            ) from None
        cause = cause.__cause__ or cause.__context__


def _no_package(name: str) -> NoReturn:
    raise MachineError(
        f"Corpus {name} comes through the package datasets, which is not installed. "
        f"Install it: {install_command('torch')}. {LOCAL_ALTERNATIVES}",
        kind=ErrorKind.NO_PACKAGE,
    ) from None


def _check_columns(name: str, columns: tuple[str, ...], dataset: Any) -> None:
    for column in columns:
        if column not in dataset.column_names:
            raise InputError(
                f"Corpus {name}: no column {column!r}; it has: "
                f"{', '.join(dataset.column_names)}. Name one of them with --text-field.",
                kind=ErrorKind.NOT_FOUND,
            )
        if dataset.features[column].dtype not in ("string", "large_string"):
            raise InputError(
                f"Corpus {name}: column {column!r} holds {dataset.features[column].dtype}, "
                "not text. Name a column of text with --text-field."
            )


def _rows(dataset: Any, columns: tuple[str, ...]) -> Iterator[tuple[str | None, ...]]:
    """The columns row by row, `_BATCH_ROWS` in memory at a time."""
    for batch in dataset.select_columns(list(columns)).iter(batch_size=_BATCH_ROWS):
        yield from zip(*(batch[column] for column in columns), strict=True)
