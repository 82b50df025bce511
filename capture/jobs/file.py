"""A file of jobs: models x corpora x settings, in TOML, checked whole before anything runs.

    store = "./lpp"             # or --store

    [defaults]                  # of every job
    prompts = 500

    [[models]]                  # one job for each model with each corpus;
    model = "lab/model-1b"      # further options are this model's own
    dtype = "bfloat16"

    [[corpora]]
    corpus = "alpaca"

    [matrix]                    # and with each combination of these values
    context = [200, 500]

A file may give every option of `lpp-capture run` that says what is captured, by its long name with
dashes or underscores. `series = {name = "my-run", step = 100}` means `--series my-run --step 100`.
An option given in two places, apart from the defaults, is refused: in a file that keeps a cluster
busy for a week, nobody should have to guess which place wins.
"""

import itertools
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from lpp.capture.plan.request import CaptureRequest
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import ErrorKind, InputError, LppError
from lpp.store.settings.command_line import arguments
from lpp.store.settings.reading import made, near, problems_of
from lpp.store.settings.setting import declared

LISTS: Final = {"models": "model", "corpora": "corpus"}
"""Name of a list -> the option that each entry must have."""

_KEYS: Final = ("store", "defaults", *LISTS, "matrix")
"""Top-level keys of a file."""

SERIES: Final = {"name": "series", "step": "step"}
"""Key of a table `series` -> the option that it sets."""

_SHOWN: Final = 20
"""Problems listed in one message."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One capture."""

    name: str
    """`<model> x <corpus>`, and the options that differ between jobs of that name."""
    options: Mapping[str, Any]
    """Option -> value, as in the file; without the command's own defaults."""
    request: CaptureRequest

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options as arguments of `lpp-capture run`."""
        return arguments(CaptureSettings, self.options)


@dataclass(frozen=True, kw_only=True)
class JobsFile:
    """The content of a file of jobs."""

    store: str | None
    jobs: tuple[Job, ...]


@dataclass
class _Reading:
    """A file while it is read."""

    problems: list[str] = field(default_factory=list)
    """Those found so far."""


@dataclass(frozen=True)
class _Entry:
    """Some options of a job, and their location in the file."""

    location: str
    options: Mapping[str, Any]


def read_jobs(path: Path) -> JobsFile:
    """The jobs of the file at `path`. Raises InputError if it is not text or has problems."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(str(path), [f"not readable as UTF-8: {error}"]) from None
    return parse_jobs(text, str(path))


def parse_jobs(text: str, where: str) -> JobsFile:
    """The jobs of a file. InputError(INVALID_VALUE) lists every problem with its place.

    where: the file's name, for messages.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal(where, [f"not TOML: {error}"]) from None
    reading = _Reading()
    problems = reading.problems
    problems += [
        f"{key}: not known here.{near(key, _KEYS)}" for key in document if key not in _KEYS
    ]
    store = document.get("store")
    if store is not None and not isinstance(store, str):
        problems.append(f"store should be a string, is {store!r}")
    defaults = _table(reading, "defaults", document.get("defaults", {}))
    lists = [_list(reading, key, document[key]) for key in LISTS if key in document]
    cells = _matrix(reading, document.get("matrix", {}))
    if problems:  # jobs of wrong entries would only repeat them
        raise _refusal(where, problems)
    jobs = _jobs(reading, defaults, [*lists, cells])
    if problems:
        raise _refusal(where, problems)
    return JobsFile(store=store, jobs=with_names(jobs))


def command_line(job: Job, *more: str) -> str:
    """The command that runs this job alone."""
    return shlex.join(["lpp-capture", "run", *job.arguments, *more])


def _table(reading: _Reading, location: str, table: object) -> dict[str, Any]:
    """The checked options of one table, by name with dashes."""
    if not isinstance(table, dict):
        reading.problems.append(f"{location} should be a table of options, is {table!r}")
        return {}
    known = declared(CaptureSettings)
    options: dict[str, Any] = {}
    given = [option for item in table.items() for option in _options_of(reading, location, *item)]
    for name, value, where in given:
        if name not in known:
            question = near(name, known)
            reading.problems.append(f"{where}: `lpp-capture run` has no such option.{question}")
        elif name in options:
            reading.problems.append(_twice(name, where))
        else:
            options[name] = value
            reading.problems += problems_of(known[name], value, where)
    return options


def _options_of(
    reading: _Reading, location: str, key: str, value: object
) -> list[tuple[str, object, str]]:
    """(name, value, location) of the option of a key; of both options for `series = {...}`."""
    name, where = key.replace("_", "-"), f"{location}.{key}"
    if name != "series" or not isinstance(value, dict):
        return [(name, value, where)]
    reading.problems += [
        f"{where}.{part}: not known here.{near(part, SERIES)}"
        for part in value
        if part not in SERIES
    ]
    reading.problems += [f"{where} has no {part}" for part in SERIES if part not in value]
    return [(SERIES[part], value[part], f"{where}.{part}") for part in SERIES if part in value]


def _twice(name: str, where: str) -> str:
    how = "alone and in series" if name == "step" else "with a dash and an underscore"
    return f"{where}: given twice, {how}"


def _list(reading: _Reading, key: str, entries: object) -> list[_Entry]:
    """Entries of `models` or `corpora`: each a table, or only a name."""
    needed = LISTS[key]
    if not isinstance(entries, list) or not entries:
        reading.problems.append(f"{key} should be a list of at least one {needed}, is {entries!r}")
        return []
    parsed = []
    for number, given in enumerate(entries):
        location = f"{key}[{number}]"
        options = _table(reading, location, {needed: given} if isinstance(given, str) else given)
        if isinstance(given, dict) and needed not in options:
            reading.problems.append(f"{location} names no {needed}")
        parsed.append(_Entry(location, options))
    return parsed


def _matrix(reading: _Reading, matrix: object) -> list[_Entry]:
    """Every combination of the matrix's values, the first key changing slowest."""
    if not isinstance(matrix, dict):
        reading.problems.append(f"matrix should be a table of lists, is {matrix!r}")
        return []
    axes: dict[str, list[dict[str, Any]]] = {}
    for key, values in matrix.items():
        name = key.replace("_", "-")
        if not isinstance(values, list) or not values:
            reading.problems.append(f"matrix.{key} should be a list of values, is {values!r}")
        elif name in axes:
            reading.problems.append(_twice(name, f"matrix.{key}"))
        else:
            axes[name] = [
                _table(reading, f"matrix[{number}]", {key: value})
                for number, value in enumerate(values)
            ]
    if "step" in axes and any("step" in series for series in axes.get("series", ())):
        reading.problems.append(_twice("step", "matrix.step"))
    return [
        _Entry("matrix", {name: value for part in parts for name, value in part.items()})
        for parts in itertools.product(*axes.values())
    ]


def _jobs(
    reading: _Reading, defaults: Mapping[str, Any], lists: Sequence[Sequence[_Entry]]
) -> list[Job]:
    """One job for each combination of entries; adds problems of whole jobs to `reading`."""
    jobs: dict[int, Job] = {}
    for number, entries in enumerate(itertools.product(*lists), start=1):
        for first, second in itertools.combinations(entries, 2):
            reading.problems += [
                f"{name}: given by {first.location} and by {second.location}; leave it in one of "
                "them"
                for name in first.options
                if name in second.options
            ]
        options = dict(defaults)
        for entry in entries:
            options |= entry.options
        job = _job(reading, number, options)
        if job is None:
            continue
        reading.problems += [
            f"jobs {earlier} and {number} are the same: {shlex.join(job.arguments)}"
            for earlier, other in jobs.items()
            if other.request == job.request
        ][:1]
        reading.problems += [
            f"jobs {earlier} and {number} are both {job.request.model.series}: "
            f"{shlex.join(job.arguments)}"
            for earlier, other in jobs.items()
            if _of_one_step(other.request, job.request)
        ][:1]
        jobs[number] = job
    reading.problems[:] = dict.fromkeys(reading.problems)  # pairs of entries repeat problems
    return list(jobs.values())


def _job(reading: _Reading, number: int, options: Mapping[str, Any]) -> Job | None:
    missing = [name for name in LISTS.values() if name not in options]
    if missing:
        reading.problems += [
            f"no {name}: add a table [[{key}]] with {name} = ..., or {name} to the defaults"
            for key, name in LISTS.items()
            if name in missing
        ]
        return None
    try:
        return make_job(options)
    except LppError as error:
        if not any(problem.endswith(str(error)) for problem in reading.problems):
            reading.problems.append(f"job {number}, {_base_name(options)}: {error}")
        return None


def make_job(options: Mapping[str, Any]) -> Job:
    """The job of options of `lpp-capture run`, which include model and corpus.

    Raises InputError for settings that exclude each other.
    """
    request = request_of(made(CaptureSettings, options))
    return Job(name=_base_name(options), options=options, request=request)


def _of_one_step(first: CaptureRequest, second: CaptureRequest) -> bool:
    """Whether two requests capture different models as the same step of the same series."""
    if first.model.series is None or (first.model.id, first.model.revision) == (
        second.model.id,
        second.model.revision,
    ):
        return False
    model = replace(first.model, id=second.model.id, revision=second.model.revision)
    return replace(first, model=model) == second


def _base_name(options: Mapping[str, Any]) -> str:
    """Model and corpus without their folders."""
    model, corpus = (
        str(options[name]).rstrip("/").rsplit("/", 1)[-1] for name in ("model", "corpus")
    )
    return f"{model} x {corpus}"


def with_names(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """The jobs. If several have the same name, the options in which they differ are added."""
    named = []
    for job in jobs:
        alike = [other for other in jobs if other.name == job.name]
        keys = dict.fromkeys(key for other in alike for key in other.options)
        differing = [
            key for key in keys if len({str(other.options.get(key)) for other in alike}) > 1
        ]
        options = {key: job.options[key] for key in differing if key in job.options}
        more = " ".join(word.removeprefix("--") for word in arguments(CaptureSettings, options))
        named.append(replace(job, name=f"{job.name} {more}".rstrip()))
    return tuple(named)


def _refusal(where: str, problems: Sequence[str]) -> InputError:
    listed = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return InputError(
        f"{where}: {len(problems)} problem{'s' * (len(problems) > 1)}, so nothing was run."
        f"{listed}{more}\nCorrect the file, then repeat the command. "
        "`lpp-capture run --help` lists the options.",
        kind=ErrorKind.INVALID_VALUE,
    )
