"""Items that were evaluated elsewhere, joined to the prompts of runs that read the same texts.

A prompt's text is the one that it was captured with (`--keep-texts`), or what its tokens spell by
the vocabulary of its tokenizer. White space at either end does not count. A prompt that was cut
has another text and is never joined.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from lpp.analyze.benchmarks.read_item_log import LoggedItem, log_name, read_item_log
from lpp.store import Run, Store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.items import ITEMS_FILE, ITEMS_SCHEMA, items_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A result file of lm-eval."""

    name: str
    """Inside its source."""
    path: Path
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedItems:
    """The items of one log."""

    model: str
    task: str
    folder: PurePosixPath
    """Of its file of items, inside its source."""
    table: pa.Table
    """`ITEMS_SCHEMA`"""

    @property
    def run(self) -> str | None:
        """The run whose prompts they are joined to; None where no text is a prompt of a run."""
        return self.table["run"][0].as_py() if len(self.table) else None

    @property
    def n_joined(self) -> int:
        """Items with a prompt for each of their answers."""
        return sum(None not in prompts for prompts in self.table["prompt_ids"].to_pylist())


def join_logs(
    results: Iterable[ResultFile],
    store: Store,
    source: str,
    candidates: Mapping[str, Sequence[str]],
    wanted: Callable[[str], bool],
) -> list[JoinedItems]:
    """The items of every log of a `wanted` task beside `results`.

    source: name of their source. candidates: model -> runs that its items may be joined to.
    Raises InputError where no log is there, and for a log that is none.
    """
    prompts: dict[str, Prompts] = {}
    found = []
    for result in results:
        for path in sorted(result.path.parent.glob("samples_*.jsonl")):
            named = log_name(path.name)
            if named is None or result.path.name != f"results_{named[1]}.json":
                continue
            task, where = named[0], str(path)
            if not wanted(task) or not (items := read_item_log(_content(path), where, task)):
                continue
            for run in candidates[result.model]:
                prompts.setdefault(run, Prompts(store.runs[run]))
            held = {run: prompts[run] for run in candidates[result.model]}
            found.append(
                JoinedItems(
                    model=result.model,
                    task=task,
                    folder=PurePosixPath(result.name).parent,
                    table=join_items(items, held, source=source, model=result.model),
                )
            )
    if not found:
        raise InputError(
            "--items: there is no log of items, samples_<task>_<time>.jsonl, beside the result "
            "files. `lm_eval --log_samples --output_path DIR ...` writes them.",
            kind=ErrorKind.NOT_FOUND,
        )
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", kind=ErrorKind.NOT_FOUND) from None


def items_files(joined: Iterable[JoinedItems]) -> dict[str, bytes]:
    """The files of items of a source, by name: one for each folder."""
    tables: dict[PurePosixPath, list[pa.Table]] = {}
    for one in joined:
        tables.setdefault(one.folder, []).append(one.table)
    return {
        (folder / ITEMS_FILE).as_posix(): items_file(pa.concat_tables(some))
        for folder, some in tables.items()
    }


def join_items(
    items: Sequence[LoggedItem], prompts: Mapping[str, "Prompts"], *, source: str, model: str
) -> pa.Table:
    """The rows of `items`, `ITEMS_SCHEMA`, of the one run that has most of their texts.

    prompts: run -> its prompts; of equals the first counts.
    """
    joined = {run: [_found(item, held) for item in items] for run, held in prompts.items()}
    counts = {run: sum(i is not None for row in rows for i in row) for run, rows in joined.items()}
    run = max(counts, key=counts.__getitem__, default=None)
    if run is not None and counts[run] == 0:
        run = None
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        ids = [None] * len(item.texts) if run is None else joined[run][number]
        rows.append({**item.row, "source": source, "model": model, "run": run, "prompt_ids": ids})
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA)


class Prompts:
    """The prompts of a run by their text; the first of several that are alike."""

    def __init__(self, run: Run) -> None:
        self._ids: dict[bytes, int] = {}
        for prompt_id, text in _texts(run):
            self._ids.setdefault(_digest(text), prompt_id)

    def find(self, text: str) -> int | None:
        """Id of the prompt with this text; None where there is none."""
        return self._ids.get(_digest(text.encode(errors="surrogatepass")))


def _found(item: LoggedItem, prompts: Prompts) -> list[int | None]:
    """The prompt of each answer."""
    return [
        next((found for text in texts if (found := prompts.find(text)) is not None), None)
        for texts in item.texts
    ]


def _texts(run: Run) -> Iterator[tuple[int, bytes]]:
    """(prompt, text) of every prompt that was not cut; none where the run cannot say."""
    kept = "text" in run.extra_columns.names
    vocabulary = None if kept else run.vocabulary()
    if vocabulary is None and not kept:
        return
    spelled = {}
    if vocabulary is not None:
        ids, pieces = vocabulary["id"].to_pylist(), vocabulary["bytes"].to_pylist()
        # tokens without bytes, such as one that begins a text, stand for no text
        spelled = dict(zip(ids, (piece or b"" for piece in pieces), strict=True))
    rows = run.prompts(*(["text"] if kept else [])).to_pylist()
    for row, of, at in zip(rows, *run.branches, strict=True):
        root = rows[of] if of >= 0 else None
        if row["truncated"] or (root is not None and root["truncated"]):
            continue
        if kept:
            text = ("" if root is None else root["text"]) + row["text"]
            yield row["prompt_id"], text.encode(errors="surrogatepass")
        else:
            ids = [*([] if root is None else root["token_ids"][:at]), *row["token_ids"]]
            yield row["prompt_id"], b"".join(spelled.get(i, b"") for i in ids)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text.strip()).digest()
