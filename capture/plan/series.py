"""Checkpoints of one training: the step that a revision names, and the series of a request.

A series is a name and a step, SPEC.md section 4. The user gives both, or a list of revisions: then
the series has the model's name, and each revision's name contains its step.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import Series, series_problems

_Item = TypeVar("_Item", str, int)

_INTEGER: Final = r"(?<![0-9.])([0-9]{1,16})(?![0-9A-Za-z]|\.[0-9])"
"""A whole number. The digits of `21B`, `10k` and `1.5` are not a number of steps."""

_STEP: Final = re.compile(
    rf"(?:steps?|checkpoint|ckpt|iter(?:ation)?)[-_]?{_INTEGER}", re.IGNORECASE
)
_ANY: Final = re.compile(_INTEGER)
_COMMIT: Final = re.compile(r"(?=.*[a-f])[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One revision of a list."""

    revision: str
    step: int


def step_of(revision: str) -> int | None:
    """The step that a revision's name contains; None if there is none or several.

    It is the number after `step`, `checkpoint`, `ckpt` or `iter`, or else the only number. A commit
    hash has no step.

    >>> [step_of(name) for name in ("step1000", "stage1-step5000-tokens21B", "global_step12")]
    [1000, 5000, 12]
    >>> [step_of(name) for name in ("checkpoint-500", "main", "3-of-9", "step10k", "0a1b2c3")]
    [500, None, None, None, None]
    """
    if _COMMIT.fullmatch(revision):
        return None
    steps = {int(digits) for digits in _STEP.findall(revision) or _ANY.findall(revision)}
    return steps.pop() if len(steps) == 1 else None


def checkpoints(revisions: str) -> list[Checkpoint]:
    """The checkpoints of `--revision a,b=20`. Raises InputError, with every problem of the list."""
    names = [part.strip() for part in revisions.split(",")]
    parsed, problems = [], []
    for name in names:
        revision, equals, digits = name.rpartition("=")
        if not equals:
            revision, step = name, step_of(name)
        else:
            step = int(digits) if re.fullmatch(r"[0-9]{1,16}", digits) else None
        if not revision:
            problems.append("a revision is empty")
        elif step is None:
            problems.append(f"{name!r} names no single step: write {revision}=STEP")
        else:
            parsed.append(Checkpoint(revision, step))
    problems += [f"{name} is given twice" for name in _repeated([c.revision for c in parsed])]
    if not problems:
        problems += [
            f"{' and '.join(c.revision for c in parsed if c.step == step)} are both step {step}"
            for step in _repeated([c.step for c in parsed])
        ]
    if problems:
        raise InputError(
            f"--revision {revisions}: {'; '.join(problems)}. Nothing was captured.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return parsed


def _repeated(items: Sequence[_Item]) -> list[_Item]:
    return [item for item, count in Counter(items).items() if count > 1]


def is_local(model: str) -> bool:
    """Whether `model` is a folder or a file of this machine, which has no revisions."""
    return bool(model) and Path(model).expanduser().exists()


def series_of(
    *, model: str, revision: str | None, name: str | None, step: int | None, untrained: bool
) -> Series | None:
    """The series of one capture, from `--series` and `--step`; None if neither is given.

    model: as `--model` names it. The default of the step is that of the revision; the default of
    the name, for a hub model, is the model. Raises InputError if one of them remains unknown.
    """
    if name is None and step is None:
        return None
    if untrained:
        raise _refused(
            "--series and --step are for trained weights: random ones (--untrained-seed) have no "
            "step. Leave one of them out."
        )
    revision = None if is_local(model) else revision  # a folder has no revisions
    if name is None:
        if revision is None:
            raise _refused(
                f"--step {step} needs --series NAME, which says of which training "
                f"{model} is a checkpoint."
            )
        name = model
    if step is None and revision is not None:
        step = step_of(revision)
    if step is None:
        where = model if revision is None else f"--revision {revision}"
        raise _refused(f"--series {name!r} needs --step N: {where} names no single step.")
    series = Series(name=name, step=step)
    if problems := series_problems(series):
        raise _refused(f"--series: {'; '.join(problems)}.")
    return series


def _refused(message: str) -> InputError:
    return InputError(message, kind=ErrorKind.INVALID_VALUE)
