"""Files that benchmark scores come from: found in folders, and each read by its kind."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from lpp.analyze.scores.inspect_log import is_inspect_log, open_inspect_log
from lpp.analyze.scores.read_inspect import read_inspect
from lpp.analyze.scores.read_lm_eval import read_lm_eval
from lpp.analyze.scores.read_score_table import read_score_table
from lpp.analyze.scores.score_rows import ScoreFile
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import check_regular

_TABLES: Final = (".csv", ".tsv", ".parquet")

_INSPECT_LOG: Final = re.compile(r"\d{4}-\d\d-\d\dT[^_]+_.+_.+\.json")
"""Name of a `.json` log; other files of a folder of logs end alike."""


def named_files(files: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """(name inside the source, path) of every file; folders are searched for results of lm-eval
    and logs of inspect.
    """
    taken: set[str] = set()
    for given in files:
        found = _in_folder(given) if given.is_dir() else [given]
        for path in found:
            name = path.relative_to(given.parent).as_posix()
            while name in taken:
                name = f"again/{name}"
            taken.add(name)
            yield name, path


def _in_folder(folder: Path) -> list[Path]:
    """The result files of lm-eval in a folder; where it has none, the logs of inspect."""
    found = sorted(folder.rglob("results_*.json"))
    if not found:
        logs = [path for path in folder.rglob("*.json") if _INSPECT_LOG.fullmatch(path.name)]
        found = sorted([*logs, *folder.rglob("*.eval")])
    if not found:
        raise InputError(
            f"{folder} holds no results_*.json and no log of inspect. Name the folder that lm_eval "
            "(--output_path) or inspect (--log-dir) wrote to, or the files.",
            kind=ErrorKind.NOT_FOUND,
        )
    return found


def read_file(
    name: str, path: Path, wanted: Callable[[str], bool]
) -> tuple[ScoreFile, tuple[str, bytes]]:
    """The scores of a file, and (name, bytes) of what is kept of it: of an inspect log the header,
    since its samples may have any size.
    """
    check_regular(path)
    try:
        return _read(name, path, wanted)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", kind=ErrorKind.NOT_FOUND) from None


def _read(
    name: str, path: Path, wanted: Callable[[str], bool]
) -> tuple[ScoreFile, tuple[str, bytes]]:
    suffix = path.suffix.lower()
    if suffix in (".json", ".eval") and is_inspect_log(path):
        log = open_inspect_log(path, name)
        header = json.dumps(log.header, indent=1, sort_keys=True).encode()
        return read_inspect(log, wanted), (f"{name}.header.json", header)
    if suffix in (".json", *_TABLES):
        data = path.read_bytes()
        read = read_lm_eval if suffix == ".json" else read_score_table
        return read(data, name, wanted), (name, data)
    raise InputError(
        f"{name}: not a file of scores by its ending. Scores come as .json (results of lm-eval), "
        f".eval (logs of inspect), {', '.join(_TABLES)}.",
        kind=ErrorKind.INVALID_VALUE,
    )
