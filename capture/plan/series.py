"""Checkpoints of one training: the step that a revision names, and the series of a request.

A series is a name and a step, SPEC.md section 4. The user gives both; the
name of a revision may contain its step.
"""

import re
from pathlib import Path
from typing import Final

from lpp.store.errors import InputError
from lpp.store.format.plan import Series, series_problems

_INTEGER: Final = r"(?<![0-9.])([0-9]{1,16})(?![0-9A-Za-z]|\.[0-9])"
"""A whole number. The digits of `21B`, `10k` and `1.5` are not a number of steps."""

_STEP: Final = re.compile(
    rf"(?:steps?|checkpoint|ckpt|iter(?:ation)?)[-_]?{_INTEGER}", re.IGNORECASE
)
_ANY: Final = re.compile(_INTEGER)
_COMMIT: Final = re.compile(r"(?=.*[a-f])[0-9a-f]{7,40}")


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
        raise InputError(
            "--series and --step are for trained weights: random ones (--untrained-seed) have no "
            "step. Leave one of them out."
        )
    revision = None if is_local(model) else revision  # a folder has no revisions
    if name is None:
        if revision is None:
            raise InputError(
                f"--step {step} needs --series NAME, which says of which training "
                f"{model} is a checkpoint."
            )
        name = model
    if step is None and revision is not None:
        step = step_of(revision)
    if step is None:
        where = model if revision is None else f"--revision {revision}"
        raise InputError(f"--series {name!r} needs --step N: {where} names no single step.")
    series = Series(name=name, step=step)
    if problems := series_problems(series):
        raise InputError(f"--series: {'; '.join(problems)}.")
    return series
