"""The labels of the prompts of a run: two classes, or a number, from a field that prompts carry."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from lpp.analyze.numerics.linear_probe import label_folds
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.probe_errors import Target
from lpp.analyze.numerics.statistics.auroc import Codes
from lpp.analyze.numerics.statistics.clusters import cluster_codes
from lpp.analyze.questions import LabelProbeSettings
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.prompt_clusters import prompt_values
from lpp.store.errors import ErrorKind, InputError
from lpp.store.units import counted

FEWEST_PROMPTS: Final = 50
FEWEST_OF_A_CLASS: Final = 10
"""With 10 of 50, chance alone gives AUROCs from 0.3 to 0.7."""

_BINS: Final = 5
"""Quantiles of a number that folds share evenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The prompts that have a label and a row, and what is predicted of them."""

    name: str
    """The field, or FIELD=VALUE."""
    prompts: Codes
    """(n,) ids, ascending."""
    classes: tuple[str, str] | None
    """Names of the labels 0 and 1; None for a number."""
    target: Target
    n_clusters: int
    left_out: Mapping[str, int]
    """Numbers of prompts without a label or a row, by reason."""


def labels_of(view: RunView, label: str, first_token: int, settings: LabelProbeSettings) -> Labels:
    """The labels of the prompts of `view` with more than `first_token` tokens.

    label: a field with two values, or with numbers; or FIELD=VALUE, prompts with that value against
    all others. Raises InputError for a field that prompts lack, one value, more than two that are
    no numbers, and for too few prompts, prompts of a class, or clusters.
    """
    run = view.run
    field, equals, wanted = label.partition("=")
    values = prompt_values(run, field, option="--label")[: run.n_prompts]
    lengths = view.lengths
    there = np.array([not _is_missing(value) for value in values], dtype=bool)
    reasons = {
        "set aside, or a branch": lengths == 0,
        "no label": (lengths > 0) & ~there,
        "too short for the row": (lengths > 0) & there & (lengths <= first_token),
    }
    prompts = np.flatnonzero((lengths > first_token) & there)
    held = [values[k] for k in prompts.tolist()]
    numbers, classes = _numbers(label, held, wanted if equals else None)
    where = f"--label {label}: run {run.id}"
    if len(prompts) < FEWEST_PROMPTS:
        raise _too_few(f"{where} has {len(prompts)} prompts with a label and a row")
    if classes and min(numbers.sum(), len(numbers) - numbers.sum()) < FEWEST_OF_A_CLASS:
        counts = f"{int(numbers.sum())} of {classes[1]} and {int((1 - numbers).sum())} others"
        raise _too_few(f"{where} has {counts}")
    clusters = _codes(view, settings.cluster, "--cluster", prompts)
    units = _joined(clusters, _codes(view, settings.group, "--group", prompts))
    # errors are by what folds keep together, unless clusters are named
    errors = clusters if settings.cluster else units
    count = int(units.max()) + 1
    if count < 2 * settings.folds:
        names = " and ".join(filter(None, (settings.group, settings.cluster)))
        raise InputError(
            f"{where}: values of {names} keep all prompts in {counted(count, 'part')}; "
            f"{settings.folds} folds take two or more each. Ask for fewer --folds, or name another "
            "field.",
            kind=ErrorKind.INVALID_VALUE,
        )
    bins = numbers if classes else np.argsort(np.argsort(numbers)) * _BINS // len(numbers)
    fold = label_folds(bins.astype(np.int64), units, settings.folds, seed=settings.seed)
    return Labels(
        name=label,
        prompts=prompts,
        classes=classes,
        target=Target(
            labels=numbers,
            fold=fold,
            clusters=errors,
            classes=classes is not None,
            seed=settings.seed,
        ),
        n_clusters=int(errors.max()) + 1,
        left_out={why: int(those.sum()) for why, those in reasons.items() if those.any()},
    )


def _numbers(
    label: str, values: list[object], wanted: str | None
) -> tuple[Floats, tuple[str, str] | None]:
    """(n,) labels as numbers, and the names of 0 and 1 if they are classes."""
    counts = Counter(values)
    kinds = sorted(counts, key=lambda value: (str(type(value)), value))
    if wanted is not None:
        chosen = [_text(value) == wanted for value in values]
        if not any(chosen):
            few = ", ".join(_text(value) for value, _ in counts.most_common(5))
            raise InputError(
                f"--label {label}: no prompt has that value; the most frequent are {few}.",
                kind=ErrorKind.NOT_FOUND,
            )
        kinds, values = [False, True], list(chosen)
        names: tuple[str, str] = ("other", wanted)
    elif len(kinds) == 2:
        names = (_text(kinds[0]), _text(kinds[1]))
    elif len(kinds) > 2 and all(isinstance(kind, int | float) for kind in kinds):
        numbers = np.array(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise InputError(
                f"--label {label}: the field has infinities. Correct it, and add it again with "
                "lpp-capture label.",
                kind=ErrorKind.INVALID_VALUE,
            )
        return numbers, None
    if wanted is None and len(kinds) < 2:
        what = f"the value {_text(kinds[0])} alone" if kinds else "no value at all"
        raise InputError(
            f"--label {label}: prompts with a row have {what}, so there is nothing to tell apart. "
            "Name another field.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if wanted is None and len(kinds) > 2:
        common = _text(counts.most_common(1)[0][0])
        raise InputError(
            f"--label {label}: {len(kinds)} classes. A probe tells two apart: name one against all "
            f"others, such as --label {label}={common}.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return np.array([value == kinds[1] for value in values], dtype=np.float64), names


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _codes(view: RunView, field: str | None, option: str, prompts: Codes) -> Codes:
    """(n,) number of the part of each prompt; each is a part of its own without a field."""
    if field is None:
        return np.arange(len(prompts))
    values = prompt_values(view.run, field, option=option)
    return cluster_codes([values[k] for k in prompts.tolist()])


def _joined(first: Codes, second: Codes) -> Codes:
    """(n,) parts that hold whole parts of both."""
    codes = first
    while True:  # each pass gives a part of either the least code that it meets
        least = codes
        for parts in (first, second):
            low = np.full(int(parts.max()) + 1, len(codes))
            np.minimum.at(low, parts, least)
            least = low[parts]
        if np.array_equal(least, codes):
            return cluster_codes(codes.tolist())
        codes = least


def _too_few(what: str) -> InputError:
    return InputError(
        f"{what}. A probe takes {FEWEST_PROMPTS} prompts, and {FEWEST_OF_A_CLASS} of each class: "
        "of fewer, chance alone gives an AUROC of 0.3 or 0.7. Capture more prompts, or label more "
        "(lpp-capture label).",
        kind=ErrorKind.INCOMPLETE,
    )
