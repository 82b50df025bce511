"""Items that were evaluated elsewhere, joined to the prompts of runs that read the same texts.

A prompt's text is the one that it was captured with (`--keep-texts`), or what its tokens spell by
the vocabulary of its tokenizer. White space at either end does not count. A prompt that was cut
has another text and is never joined.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa

from lpp.analyze.scores.inspect_log import open_inspect_log
from lpp.analyze.scores.read_inspect import KIND as INSPECT
from lpp.analyze.scores.read_inspect import task_of
from lpp.analyze.scores.read_inspect_items import epochs_of, read_inspect_items
from lpp.analyze.scores.read_item_log import LoggedItem, ResultFile, log_name, read_item_log
from lpp.store import Run, Store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.items import ITEMS_FILE, ITEMS_SCHEMA, declared_cluster, items_file
from lpp.store.objects.place import check_regular

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedItems:
    """The items of one log."""

    model: str
    task: str
    folder: PurePosixPath
    """Of its file of items, inside its source."""
    table: pa.Table
    """`ITEMS_SCHEMA`"""
    n_joined: int
    """Items with a prompt for each answer whose text is known."""
    note: str = ""
    """What the user has to know of them."""

    @property
    def run(self) -> str | None:
        """The run whose prompts they are joined to; None where no text is a prompt of a run."""
        return self.table["run"][0].as_py() if len(self.table) else None


def join_logs(
    results: Iterable[ResultFile],
    store: Store,
    source: str,
    candidates: Mapping[str, Sequence[str]],
    wanted: Callable[[str], bool],
    *,
    group: str | None = None,
) -> list[JoinedItems]:
    """The items of every log of a `wanted` task inside or beside `results`.

    source: name of their source. candidates: model -> runs that its items may be joined to. group:
    field of an item's document that groups items.

    Raises InputError where no log is there, for a log that is none, and a field that no item has.
    """
    prompts: dict[str, Prompts] = {}
    found = []
    for result in results:
        for task, items, note in _logs(result, wanted, group):
            for run in candidates[result.model]:
                prompts.setdefault(run, Prompts(store.runs[run]))
            held = {run: prompts[run] for run in candidates[result.model]}
            table, n_joined = join_items(items, held, source=source, model=result.model)
            found.append(
                JoinedItems(
                    model=result.model,
                    task=task,
                    folder=_folder(result),
                    table=table,
                    n_joined=n_joined,
                    note=note,
                )
            )
    if not found:
        raise InputError(
            "--items: there is no log of items, samples_<task>_<time>.jsonl, beside the result "
            "files. `lm_eval --log_samples --output_path DIR ...` writes them.",
            kind=ErrorKind.NOT_FOUND,
        )
    if group is not None and all(
        one.table["item_group"].null_count == len(one.table) for one in found
    ):
        raise InputError(
            f"--group {group}: no document of {', '.join(one.task for one in found)} has this "
            "field. Name another, or none.",
            kind=ErrorKind.NOT_FOUND,
        )
    return found


def _logs(
    result: ResultFile, wanted: Callable[[str], bool], group: str | None
) -> Iterator[tuple[str, list[LoggedItem], str]]:
    """(task, items, note) of every log of a result file."""
    if result.kind == INSPECT:
        log = open_inspect_log(result.path, result.name)
        n = epochs_of(log)
        note = f"each was asked {n} times; items are those of the first epoch" if n > 1 else ""
        yield task_of(log.header), read_inspect_items(log, group), note
        return
    for path in sorted(result.path.parent.glob("samples_*.jsonl")):
        named = log_name(path.name)
        if named is None or result.path.name != f"results_{named[1]}.json":
            continue
        task = named[0]
        if not wanted(task):
            continue
        cluster = declared_cluster(_content(result.path), task)
        if items := read_item_log(_content(path), str(path), task, group, cluster):
            yield task, items, ""


def _folder(result: ResultFile) -> PurePosixPath:
    """Of the file of items: that of the result file, which is one model's with lm-eval."""
    parent = PurePosixPath(result.name).parent
    name = _NOT_IN_NAMES.sub("_", result.model).strip("._") or "model"
    return parent / name if result.kind == INSPECT else parent


def _content(path: Path) -> bytes:
    check_regular(path)
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
) -> tuple[pa.Table, int]:
    """The rows of `items`, `ITEMS_SCHEMA`, of the one run that has most of their texts; and how
    many items have a prompt for each answer whose text is known.

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
    whole = sum(_is_whole(i, row["prompt_ids"]) for i, row in zip(items, rows, strict=True))
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA), whole


def _is_whole(item: LoggedItem, prompt_ids: Sequence[int | None]) -> bool:
    """Whether an item has an answer with a text, and a prompt for each such answer."""
    known = [i for i, texts in zip(prompt_ids, item.texts, strict=True) if texts]
    return bool(known) and None not in known


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
