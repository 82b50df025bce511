"""The labels of the prompts, tokens or items of a run: two classes or several, or a number."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lpp.analyze.numerics.linear_probe import label_folds
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.probe_errors import Target
from lpp.analyze.numerics.statistics.auroc import Codes
from lpp.analyze.numerics.statistics.clusters import cluster_codes
from lpp.analyze.probes.examples import Examples, examples_of
from lpp.analyze.questions import LabelProbeSettings
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.prompt_clusters import prompt_values
from lpp.store.errors import ErrorKind, InputError
from lpp.store.units import counted

FEWEST_PROMPTS: Final = 50
FEWEST_OF_A_CLASS: Final = 10
"""With 10 of 50, chance alone gives AUROCs from 0.3 to 0.7."""

MOST_CELLS: Final = 1 << 26
"""Of the matrix of labels with a column for each class: 512 MiB, of which a fit takes several."""

_BINS: Final = 5
"""Quantiles of a number that folds share evenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The prompts, tokens or items that have a label and a row, and what is predicted of them."""

    name: str
    """The field, or FIELD=VALUE."""
    of: Literal["prompts", "tokens", "items"]
    prompts: Codes
    """(n,) ids, ascending; those of tokens repeat."""
    ends: Codes
    """(n,) tokens of the prompt up to the last row that may be read; its length, of prompts."""
    classes: tuple[str, ...] | None
    """Names of the labels 0 and 1, or of several classes; None for a number."""
    target: Target
    errors_by: str
    """What errors are by: a field, or the prompt of tokens; empty: all are independent."""
    n_clusters: int
    duplicates: int
    """Prompts with the token ids of another one, which is in another cluster."""
    left_out: Mapping[str, int]
    """Numbers of those without a label or a row, by reason."""

    @property
    def two_classes(self) -> bool:
        """Whether a score says how far a prompt is of the second class rather than the first."""
        return self.classes is not None and len(self.classes) == 2

    @property
    def codes(self) -> Floats:
        """(n,) the class of each, from 0; or its number."""
        labels = self.target.labels
        return labels if labels.ndim == 1 else labels.argmax(axis=1).astype(np.float64)


def labels_of(view: RunView, label: str, first_token: int, settings: LabelProbeSettings) -> Labels:
    """The labels of what has more than `first_token` tokens in `view`.

    label: a field with classes or numbers; FIELD=VALUE, that value against all others; or `right`
    with a task. Of several classes, those with too few prompts are left out. Raises InputError for
    a field that prompts lack, for one value, and for too few prompts, prompts of a class, or
    clusters.
    """
    field, equals, wanted = label.partition("=")
    examples = examples_of(view, field, first_token, settings)
    if not equals:
        examples = _frequent(label, examples)
    numbers, classes = _numbers(label, examples.values, wanted if equals else None)
    n, where = len(numbers), f"--label {label}: run {view.run.id}"
    if n < FEWEST_PROMPTS:
        raise _too_few(f"{where} has {n} {examples.of} with a label and a row")
    if classes and (fewest := _fewest(numbers)) < FEWEST_OF_A_CLASS:
        of_second = int(numbers.sum())
        what = f"{of_second} of {classes[1]} and {n - of_second} of {classes[0]}"
        raise _too_few(f"{where} has {what if numbers.ndim == 1 else f'{fewest} of a class'}")
    prompts = examples.prompts
    clusters = np.arange(n) if examples.clusters is None else examples.clusters
    if settings.cluster and examples.of != "items":  # whose field may be one of documents
        clusters = _joined(clusters, view, settings.cluster, "--cluster", prompts)
    units = clusters
    if settings.group:
        units = _joined(clusters, view, settings.group, "--group", prompts)
    # errors are by what folds keep together, unless clusters are named
    errors = clusters if settings.cluster else units
    count = int(units.max()) + 1
    if count < 2 * settings.folds:
        named = (settings.group, settings.cluster or examples.clustered_by)
        names = " and ".join(filter(None, named))
        raise InputError(
            f"{where}: values of {names} keep all {examples.of} in {counted(count, 'part')}; "
            f"{settings.folds} folds take two or more each. Ask for fewer --folds, or name another "
            "field."
        )
    target_codes = numbers if numbers.ndim == 1 else numbers.argmax(axis=1)
    bins = target_codes if classes else np.argsort(np.argsort(numbers)) * _BINS // n
    fold = label_folds(bins.astype(np.int64), units, settings.folds, seed=settings.seed)
    digests = view.prompts["sha256"].to_list()
    held = {(digests[k], part) for k, part in zip(prompts.tolist(), errors.tolist(), strict=True)}
    return Labels(
        name=label,
        of=examples.of,
        prompts=prompts,
        ends=examples.ends,
        classes=classes,
        target=Target(
            labels=numbers,
            fold=fold,
            clusters=errors,
            classes=classes is not None,
            seed=settings.seed,
        ),
        errors_by=settings.cluster or settings.group or examples.clustered_by,
        n_clusters=int(errors.max()) + 1,
        duplicates=len(held) - len({digest for digest, _ in held}),
        left_out=examples.left_out,
    )


def _frequent(label: str, examples: Examples) -> Examples:
    """Those of several classes that have enough prompts."""
    counts = Counter(examples.values)
    if len(counts) < 3 or all(isinstance(value, int | float) for value in counts):
        return examples
    frequent = [count for count in counts.values() if count >= FEWEST_OF_A_CLASS]
    few = len(frequent) < 2
    if few or sum(frequent) * len(frequent) > MOST_CELLS:
        why = f"have {FEWEST_OF_A_CLASS} {examples.of}"
        why = (
            f"fewer than two {why}" if few else f"{len(frequent)} {why}, more than fit into memory"
        )
        common, count = counts.most_common(1)[0]
        one = f"one against all others, such as --label {label}={_text(common)}, or "
        raise InputError(
            f"--label {label}: of {len(counts)} classes {why}. Name "
            f"{one if count >= FEWEST_OF_A_CLASS else ''}another field."
        )
    kept = np.array([counts[value] >= FEWEST_OF_A_CLASS for value in examples.values])
    return examples.only(kept, f"of a class with fewer than {FEWEST_OF_A_CLASS}")


def _numbers(
    label: str, values: list[object], wanted: str | None
) -> tuple[Floats, tuple[str, ...] | None]:
    """(n,) labels as numbers, and the names of 0 and 1 if they are classes; of several classes
    (n, c), 1 in a value's own.
    """
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
        return np.array(chosen, dtype=np.float64), ("other", wanted)
    if len(kinds) < 2:
        what = f"the value {_text(kinds[0])} alone" if kinds else "no value at all"
        raise InputError(
            f"--label {label}: prompts with a row have {what}, so there is nothing to tell apart. "
            "Name another field."
        )
    if len(kinds) > 2 and all(isinstance(kind, int | float) for kind in kinds):
        numbers = np.array(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise InputError(
                f"--label {label}: the field has infinities. Correct it, and add it again with "
                "lpp-capture label."
            )
        return numbers, None
    place = {kind: k for k, kind in enumerate(kinds)}
    codes = np.array([place[value] for value in values])
    names = tuple(_text(kind) for kind in kinds)
    return codes.astype(np.float64) if len(kinds) == 2 else np.eye(len(kinds))[codes], names


def _fewest(numbers: Floats) -> int:
    """Prompts of the smallest class."""
    columns = numbers if numbers.ndim > 1 else np.column_stack([numbers, 1 - numbers])
    return int(columns.sum(axis=0).min())


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _joined(first: Codes, view: RunView, field: str, option: str, prompts: Codes) -> Codes:
    """(n,) parts that hold whole parts of `first`, and all prompts of one value of `field`."""
    values = prompt_values(view.run, field, option=option)
    other = cluster_codes([values[k] for k in prompts.tolist()]) + int(first.max()) + 1
    size = int(other.max()) + 1
    links = coo_array((np.ones(len(first)), (first, other)), shape=(size, size))
    return cluster_codes(connected_components(links, directed=False)[1][first].tolist())


def _too_few(what: str) -> InputError:
    return InputError(
        f"{what}. A probe takes {FEWEST_PROMPTS} prompts, and {FEWEST_OF_A_CLASS} of each class: "
        "of fewer, chance alone gives an AUROC of 0.3 or 0.7. Capture more prompts, or label more "
        "(lpp-capture label).",
        kind=ErrorKind.INCOMPLETE,
    )
