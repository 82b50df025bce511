"""Files that benchmark scores come from: found in folders, and each read by its kind."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import polars as pl

from lpp.analyze.scores.inspect_log import InspectLog, begins_as_inspect_log, open_inspect_log
from lpp.analyze.scores.read_inspect import epochs_of, read_inspect, read_inspect_items, task_of
from lpp.analyze.scores.read_lm_eval import item_logs, read_lm_eval, read_lm_eval_items
from lpp.analyze.scores.read_score_table import read_score_table
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import check_regular
from lpp.store.scores.items import declared_cluster

_TABLES: Final = (".csv", ".tsv", ".parquet")

_INSPECT_LOG: Final = re.compile(r"\d{4}-\d\d-\d\dT[^_]+_.+_.+\.json")
"""Name of a `.json` log; other files of a folder of logs end alike."""

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFile:
    """A file of scores, which may have items inside it or beside it."""

    name: str
    """Inside its source."""
    path: Path
    scores: pl.DataFrame
    """`SCORES`"""
    copy: tuple[str, bytes]
    """Name and bytes of the copy that the store keeps: of an inspect log the header, since its
    samples may have any size."""
    log: InspectLog | None = None

    @property
    def model(self) -> str:
        """The model of its first score; a result file and a log have one model."""
        return str(self.scores["model"][0])

    def items(
        self, wanted: Callable[[str], bool], group: str | None
    ) -> Iterator[tuple[str, pl.DataFrame, str]]:
        """(task, `ITEMS`, what the user has to know of them) of each log of a `wanted` task."""
        if self.log is not None:
            n = epochs_of(self.log)
            note = f"each was asked {n} times; items are those of the first epoch" if n > 1 else ""
            yield task_of(self.log.header), read_inspect_items(self.log, group), note
        elif self.path.suffix.lower() == ".json":
            for task, path in item_logs(self.path, wanted):
                cluster = declared_cluster(self.copy[1], task)
                items = read_lm_eval_items(_content(path), str(path), task, group, cluster)
                if len(items):
                    yield task, items, ""

    @property
    def items_folder(self) -> PurePosixPath:
        """Folder of its file of items in the source: each folder of lm-eval is of one model."""
        parent = PurePosixPath(self.name).parent
        if self.log is None:
            return parent
        return parent / (_NOT_IN_NAMES.sub("_", self.model).strip("._") or "model")


def read_files(files: Sequence[Path], wanted: Callable[[str], bool]) -> list[ScoreFile]:
    """Every file of one source, with its scores of `wanted` benchmarks; folders are searched for
    results of lm-eval and logs of inspect.

    Raises InputError for a file that is not there, and for one that is none of scores.
    """
    read: dict[str, ScoreFile] = {}
    for given in files:
        for path in _in_folder(given) if given.is_dir() else [given]:
            name = path.relative_to(given.parent).as_posix()
            while name in read:
                name = f"again/{name}"
            read[name] = _read(name, path, wanted)
    return list(read.values())


def _in_folder(folder: Path) -> list[Path]:
    """The result files of lm-eval in a folder; where it has none, the logs of inspect."""
    files = sorted(folder.rglob("results_*.json"))
    if not files:
        logs = [path for path in folder.rglob("*.json") if _INSPECT_LOG.fullmatch(path.name)]
        files = sorted([*logs, *folder.rglob("*.eval")])
    if not files:
        raise InputError(
            f"{folder} holds no results_*.json and no log of inspect. Name the folder that lm_eval "
            "(--output_path) or inspect (--log-dir) wrote to, or the files.",
            kind=ErrorKind.NOT_FOUND,
        )
    return files


def _read(name: str, path: Path, wanted: Callable[[str], bool]) -> ScoreFile:
    suffix = path.suffix.lower()
    if suffix in (".json", ".eval"):
        start = _content(path, 256)
        if suffix == ".eval" or begins_as_inspect_log(start):
            log = open_inspect_log(path, name)
            header = json.dumps(log.header, indent=1, sort_keys=True).encode()
            copy, scores = (f"{name}.header.json", header), read_inspect(log, wanted)
            return ScoreFile(name=name, path=path, scores=scores, copy=copy, log=log)
    elif suffix not in _TABLES:
        raise InputError(
            f"{name}: not a file of scores by its ending. Scores come as .json (results of "
            f"lm-eval), .eval (logs of inspect), {', '.join(_TABLES)}."
        )
    data = _content(path)
    scores = (read_lm_eval if suffix == ".json" else read_score_table)(data, name, wanted)
    return ScoreFile(name=name, path=path, scores=scores, copy=(name, data))


def _content(path: Path, n_bytes: int = -1) -> bytes:
    """The first bytes of a file; all of them by default. InputError for a pipe, and for no file."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", kind=ErrorKind.NOT_FOUND) from None
