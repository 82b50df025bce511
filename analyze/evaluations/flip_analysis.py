"""What distinguishes items that flip between two runs, before their answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.drift.pair import Pair, pair_of
from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.features import item_features
from lpp.analyze.evaluations.flip_features import compared_sites, drift_features, row_change
from lpp.analyze.evaluations.flips import Flips, flips
from lpp.analyze.evaluations.measure import (
    FEWEST_ITEMS,
    FEWEST_OF_A_KIND,
    FeatureValues,
    Groups,
    Measure,
    enough,
    feature_columns,
    groups_of,
    with_q,
)
from lpp.analyze.evaluations.site_features import site_features
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes, Flags
from lpp.analyze.numerics.statistics.clusters import recoded
from lpp.analyze.quantities.items import (
    COVARIATES,
    DRIFT_FEATURES,
    FEATURES,
    ROW_CHANGE,
    WITHOUT_PARTIAL,
)
from lpp.analyze.quantities.tables import frame_schema
from lpp.analyze.questions import ItemsSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.select import listed, matching
from lpp.store.errors import InputError
from lpp.store.progress import SILENT, Progress

KINDS: Final = ("n_flipped", "n_stayed")

RANKED: Final = (*(feature for feature in FEATURES if feature.role != "gold"), *DRIFT_FEATURES)
"""Features in order: those of run A, then those of the difference. Gold features are left out:
every item is right in A, so its gold answer is the chosen one."""

WITH_CHOICES: Final = ("answer_length", "answer_gap")
"""Covariates of items with several answers. An answer with a small lead flips easily; the question
is what else a feature tells. Items with one answer have no lead: `COVARIATES`."""

FLIP_FEATURES: Final = frame_schema(feature_columns(KINDS))
"""One row for each of `RANKED`, and for features of rows also for each site. Only items that are
right in run A count; the AUROC is of those that are wrong in B against the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipAnalysis:
    """Two runs of one task: the items that flipped, and what distinguishes them beforehand."""

    flips: Flips
    features: pl.DataFrame
    """`FLIP_FEATURES`; empty if `why_no_ranking` gives a reason."""
    why_no_ranking: str | None
    notes: tuple[str, ...]
    """What cannot be compared and why, one line each."""
    covariates: tuple[str, ...]
    """Features whose effect is removed for the partial AUROC."""
    n_groups: int
    """Groups of the items that are right in A; 0: they have none."""
    n_within: int
    """Items that are compared within groups, as in `items`."""
    settings: ItemsSettings
    """Those that ask the same again, with filter and cluster."""


def flipped_items(
    store: Url,
    task: str,
    a: str,
    b: str,
    settings: ItemsSettings = ItemsSettings(),
) -> FlipAnalysis:
    """The items of `task` that run `b` answers differently from run `a`, and what predicts the
    change.

    a, b: as in `flips`. Raises InputError and FormatError as that and `flip_analysis` do.

    Of the items that are right in A, some are wrong in B. For each feature of an item in A (as in
    `items`), and for the difference of the two runs before the answer (`DRIFT_FEATURES`): the
    probability that an item that flips has the larger value than one that stays, with its controls.
    """
    return flip_analysis(flips(store, task, a, b, settings), settings)


def flip_analysis(
    flips: Flips,
    settings: ItemsSettings = ItemsSettings(),
    *,
    progress: Progress = SILENT,
) -> FlipAnalysis:
    """The analysis of these items.

    progress: advances by two, and by one for
    each site.

    Fewer than 50 items that are right in A, or fewer than 10 that flip or stay, are not ranked.
    Raises InputError for a site that is not in both runs, FormatError for altered bytes.
    """
    skip_first, seed = settings.skip_first, settings.seed
    chosen = _common_sites(flips, settings.sites)
    progress.expect(2 + len(chosen))
    eligible, flipped = _labels(flips)
    of_all: dict[str, Any] = {
        "flips": flips,
        "settings": replace(settings, filter=flips.a.filter, cluster=flips.a.cluster),
    }
    if not enough(flipped):
        return FlipAnalysis(
            features=pl.DataFrame(schema=FLIP_FEATURES),
            why_no_ranking=_too_few(flipped),
            notes=(),
            covariates=(),
            n_groups=0,
            n_within=0,
            **of_all,
        )
    pair, why_no_pair = _pair(flips)
    items = replace(flips.a, table=flips.a.table.filter(eligible))
    codes = None if items.clusters is None else recoded(items.clusters)
    groups = groups_of(items.table["item_group"], flipped, codes)
    values = [
        *_of_a(flips.a, eligible, chosen, first_position=skip_first, seed=seed, progress=progress),
        *_of_both(pair, items, chosen, first_position=skip_first),
    ]
    progress.advance()
    measure = _measure({v.feature: v.numbers for v in values}, flipped, groups, codes, seed)
    declared = {feature.name: feature for feature in RANKED}
    plan = flips.a.view.run.plan
    rows = [measure.row_of(declared[v.feature], v, plan) for v in values if v.feature in declared]
    return FlipAnalysis(
        features=with_q(
            pl.DataFrame(rows, schema=FLIP_FEATURES, orient="row"), list(declared), groups
        ),
        why_no_ranking=None,
        notes=tuple(_notes(pair, why_no_pair, chosen)),
        covariates=tuple(measure.covariates),
        n_groups=groups.count,
        n_within=groups.n_within,
        **of_all,
    )


def _labels(flips: Flips) -> tuple[Flags, Flags]:
    """Which items of A are right in A and present in B, (n,); which of those are wrong in B."""
    labels = flips.a.table.select("item", "right").join(
        flips.table.select("item", "right_b"), on="item", how="left", maintain_order="left"
    )
    eligible: Flags = (labels["right"] & labels["right_b"].is_not_null()).to_numpy()
    return eligible, ~labels["right_b"].to_numpy()[eligible].astype(bool)


def _measure(
    of_item: Mapping[str, Floats],
    flipped: Flags,
    groups: Groups,
    clusters: Codes | None,
    seed: int,
) -> Measure:
    """The labels and controls for every feature; of_item: values by name."""
    choices = bool(np.isfinite(of_item["answer_gap"]).any())
    covariates = WITH_CHOICES if choices else COVARIATES
    return Measure(
        labels=flipped,
        groups=groups.codes,
        clusters=clusters,
        baselines=[of_item[feature.name] for feature in RANKED if feature.role == "baseline"],
        covariates={name: of_item[name] for name in covariates},
        without_partial=covariates if choices else WITHOUT_PARTIAL,
        kinds=KINDS,
        seed=seed,
    )


def _of_a(
    items: EvaluatedItems,
    eligible: Flags,
    sites: Sequence[str],
    *,
    first_position: int,
    seed: int,
    progress: Progress,
) -> Iterator[FeatureValues]:
    """Features of run A for the `eligible` items, in the order of `items`.

    `distance` is fitted on all of `items`, so it equals that of an analysis of run A alone.
    """
    for name, numbers in item_features(items, first_position=first_position).items():
        yield FeatureValues(name, None, numbers[eligible])
    progress.advance()
    for values in site_features(
        items, sites, first_position=first_position, seed=seed, progress=progress
    ):
        yield values._replace(numbers=values.numbers[eligible])


def _of_both(
    pair: Pair | None,
    items: EvaluatedItems,
    sites: Sequence[str],
    *,
    first_position: int,
) -> Iterator[FeatureValues]:
    """Differences of the runs before the answers of `items`."""
    if pair is None:
        return
    changes = drift_features(pair, items, first_position=first_position)
    yield from (FeatureValues(name, None, numbers) for name, numbers in changes.items())
    for site in compared_sites(pair, sites):
        yield FeatureValues(ROW_CHANGE.name, site, row_change(pair, items, site))


def _common_sites(flips: Flips, patterns: Sequence[str]) -> list[str]:
    """Sites of both runs that match `patterns`."""
    a, b = (items.view.run for items in (flips.a, flips.b))
    common = [site for site in a.sites if site in b.sites]
    return matching("site", patterns, common, option="--sites") if common else []


def _pair(flips: Flips) -> tuple[Pair | None, str]:
    """Both runs as a pair, or the reason why they cannot be compared token by token."""
    try:
        return pair_of(flips.a.view.run, flips.b.view.run), ""
    except InputError as error:
        return None, str(error).partition("\n")[0]


def _notes(pair: Pair | None, why_no_pair: str, sites: Sequence[str]) -> Iterator[str]:
    if pair is None:
        yield f"The runs are not compared token by token, only item by item: {why_no_pair}"
    else:
        yield from pair.limits
        if pair.no_logits is not None:
            yield f"No KL: {pair.no_logits}"
    if not sites:
        yield "The runs have no site in common, so there are no features of sites."
    elif pair is not None:
        other = [site for site in sites if site not in compared_sites(pair, sites)]
        if other:
            yield f"{listed(other)}: no {ROW_CHANGE.name}, since rows of A and B differ in width."


def _too_few(flipped: Flags) -> str:
    n, n_flipped = len(flipped), int(flipped.sum())
    return (
        f"Not ranked: of {n} items that are right in A {n_flipped} are wrong in B. It takes "
        f"{FEWEST_ITEMS} items, and {FEWEST_OF_A_KIND} that flip and that stay: of fewer, chance "
        "alone gives an AUROC of 0.3 or 0.7. Evaluate more items, or runs that differ more."
    )
