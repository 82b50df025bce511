"""Logs of inspect_ai, `.eval` and `.json`, read by inspect_ai itself.

https://inspect.aisi.org.uk/eval-logs.html
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lpp.store.errors import ErrorKind, InputError, first_line

_JSON_LOG: Final = re.compile(rb'\s*\{\s*"version":\s*\d+,\s*"status":')
"""How a `.json` log begins: the schema fixes the order of its fields."""

_READ: Final = frozenset(
    ("id", "epoch", "scores", "choices", "target", "input", "metadata", "messages")
)
"""Fields of a sample that scores and items are made of."""

_LARGE: Final = frozenset(("events", "events_data", "store", "output"))
"""Fields of a sample that inspect need not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectLog:
    """A log of a finished evaluation."""

    path: Path
    where: str
    """For messages."""
    header: Mapping[str, Any]
    """The log without its samples."""

    def samples(self) -> list[Mapping[str, Any]]:
        """The samples of the first epoch, in the data set's order, with the fields `_READ`.

        Raises InputError where the log has none, or one that cannot be read.
        """
        log = _read(self.path, self.where, resolve_attachments=True, exclude_fields=set(_LARGE))
        ids = log.eval.dataset.sample_ids or []
        place = {identity: index for index, identity in enumerate(ids)}
        first = [sample for sample in log.samples or () if sample.epoch == 1]
        if not first:
            raise InputError(
                f"{self.where}: the log has no samples. `inspect eval` keeps them without "
                "--no-log-samples; the scores alone are added without --items.",
                kind=ErrorKind.NOT_FOUND,
            )
        first.sort(key=lambda sample: place.get(sample.id, len(place)))
        return [sample.model_dump(mode="json", include=set(_READ)) for sample in first]


def begins_as_inspect_log(start: bytes) -> bool:
    """Whether a `.json` file is a log of inspect, by its first 256 bytes."""
    return _JSON_LOG.match(start) is not None


def open_inspect_log(path: Path, where: str) -> InspectLog:
    """The log at `path`.

    Raises InputError for another file, for an evaluation that did not finish, and where inspect_ai
    is not installed.
    """
    log = _read(path, where, header_only=True)
    if log.status != "success":
        cause = f": {first_line(log.error.message)}" if log.error else ""
        raise InputError(
            f"{where}: the evaluation did not finish (status {log.status}{cause}), so its scores "
            f"are those of some samples. `inspect eval-retry {path}` finishes it.",
            kind=ErrorKind.INCOMPLETE,
        )
    header = log.model_dump(mode="json", exclude={"samples"})
    return InspectLog(path=path, where=where, header=header)


def _read(path: Path, where: str, **options: Any) -> Any:
    """An `EvalLog` of inspect_ai. InputError where it cannot read the file, whatever it raises."""
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise InputError(
            f"{where}: inspect_ai reads logs of inspect, and it is not installed: "
            "pip install inspect_ai. Or give the scores as a table: a csv with the columns model, "
            "benchmark, metric, value.",
            kind=ErrorKind.NO_PACKAGE,
        ) from None
    try:
        return read_eval_log(str(path.absolute()), **options)
    except Exception as error:
        raise InputError(
            f"{where}: inspect_ai cannot read this log ({type(error).__name__}: "
            f"{first_line(error)}). `inspect log dump {path}` shows what it is."
        ) from None
