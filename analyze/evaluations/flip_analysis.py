"""What distinguishes items that flip between two runs, before their answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.drift.pair import Pair, pair_of
from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.flip_features import compared_sites, drift_features, row_change
from lpp.analyze.evaluations.flips import Flips, flip_row, flip_tables, flips
from lpp.analyze.evaluations.measure import FeatureValues, enough, ranked
from lpp.analyze.evaluations.site_features import features_of_run
from lpp.analyze.evaluations.tables import (
    FEWEST_ITEMS,
    FEWEST_OF_A_KIND,
    FLIP_KINDS,
    ITEM_FLIPS,
    ItemAnalysis,
    feature_columns,
)
from lpp.analyze.numerics.statistics.auroc import Flags
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

RANKED: Final = (*(feature for feature in FEATURES if feature.role != "gold"), *DRIFT_FEATURES)
"""Features of run A, then features of the difference of the two runs. Gold features are left out:
every item is right in A, so its gold answer is the chosen one."""

WITH_CHOICES: Final = ("answer_length", "answer_gap")
"""Covariates of flips of items with several answers. An answer with a small lead flips easily; the
question is what else a feature tells. Items with one answer have no lead: `COVARIATES`."""


def flipped_items(
    store: Url,
    task: str,
    a: str,
    b: str,
    settings: ItemsSettings = ItemsSettings(),
) -> ItemAnalysis:
    """The items of `task` that run `b` answers differently from run `a`, and what predicts the
    change.

    a, b: as in `flips`. Raises InputError and FormatError as that and `flip_analysis` do.

    Of the items that are right in A, some are wrong in B. For each feature of an item in A (as in
    `items`), and for the difference of the two runs before the answer (`DRIFT_FEATURES`): the
    probability that an item that flips has the larger value than one that stays, with its controls.
    """
    return flip_analysis(flips(store, task, a, b, settings))


def flip_analysis(flips: Flips, *, progress: Progress = SILENT) -> ItemAnalysis:
    """The analysis of the items of two runs.

    progress: advances by two, and by one for each site.

    Fewer than 50 items that are right in A, or fewer than 10 that flip or stay, are not ranked.
    Raises InputError for a site that is not in both runs, FormatError for altered bytes.
    """
    settings, views = flips.settings, (flips.a.view, flips.b.view)
    chosen = _common_sites(flips, settings.sites)
    progress.expect(2 + len(chosen))
    eligible, flipped = _labels(flips)
    row = flip_row(flips) | {"n_groups": 0, "n_within": 0, "covariates": [], "notes": []}
    if not enough(flipped):
        features = pl.DataFrame(schema=frame_schema(feature_columns(FLIP_KINDS)))
        row["why_no_ranking"] = _too_few(flipped)
    else:
        pair, why_no_pair = _pair(flips)
        items = replace(flips.a, table=flips.a.table.filter(eligible))
        # `distance` is fitted on all items of A, so it equals that of an analysis of A alone
        of_a = (
            value._replace(numbers=value.numbers[eligible])
            for value in features_of_run(flips.a, chosen, progress)
        )
        values = [*of_a, *_of_both(pair, items, chosen)]
        progress.advance()
        of_item = {value.feature: value.numbers for value in values}
        choices = bool(np.isfinite(of_item["answer_gap"]).any())
        covariates = WITH_CHOICES if choices else COVARIATES
        features, groups = ranked(
            items,
            flipped,
            values,
            declared={feature.name: feature for feature in RANKED},
            covariates=covariates,
            without_partial=covariates if choices else WITHOUT_PARTIAL,
            kinds=FLIP_KINDS,
        )
        row |= {
            "n_groups": groups.count,
            "n_within": groups.n_within,
            "covariates": [*covariates],
            "notes": [*_notes(pair, why_no_pair, chosen)],
        }
    rows = {"item_flips": pl.DataFrame([row], schema=ITEM_FLIPS), "item_features": features}
    tables = flip_tables(flips) | rows
    return ItemAnalysis(views=views, settings=settings, tables=tables)


def _labels(flips: Flips) -> tuple[Flags, Flags]:
    """Which items of A are right in A and present in B, (n,); which of those are wrong in B."""
    labels = flips.a.table.select("item", "right").join(
        flips.table.select("item", "right_b"), on="item", how="left", maintain_order="left"
    )
    eligible: Flags = (labels["right"] & labels["right_b"].is_not_null()).to_numpy()
    return eligible, ~labels["right_b"].to_numpy()[eligible].astype(bool)


def _of_both(
    pair: Pair | None, items: EvaluatedItems, sites: Sequence[str]
) -> Iterator[FeatureValues]:
    """Differences of the runs before the answers of `items`."""
    if pair is None:
        return
    changes = drift_features(pair, items, first_position=items.settings.skip_first)
    yield from (FeatureValues(name, None, numbers) for name, numbers in changes.items())
    for site in compared_sites(pair, sites):
        yield FeatureValues(ROW_CHANGE.name, site, row_change(pair, items, site))


def _common_sites(flips: Flips, patterns: Sequence[str]) -> list[str]:
    """Sites of both runs that match `patterns`."""
    a, b = (items.view.run for items in (flips.a, flips.b))
    common = [site for site in a.activation_sites if site in b.activation_sites]
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
        f"Features are not ranked: of {n} items that are right in A, {n_flipped} are wrong in B. "
        f"Ranking needs {FEWEST_ITEMS} items, {FEWEST_OF_A_KIND} that flip and "
        f"{FEWEST_OF_A_KIND} that stay right: with fewer, an AUROC of 0.3 or 0.7 is chance. "
        "Evaluate more items, or runs that differ more."
    )
