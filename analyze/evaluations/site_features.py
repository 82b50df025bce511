"""Features of items from the rows of sites: of each site, and of the logit lens over all blocks."""

from collections.abc import Iterator, Sequence

import numpy as np

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.lens import OF_ITEMS, ItemLens, lens_of
from lpp.analyze.evaluations.measure import FeatureValues
from lpp.analyze.evaluations.rows import features_of, read_rows
from lpp.store.progress import SILENT, Progress


def site_features(
    items: EvaluatedItems,
    sites: Sequence[str],
    *,
    first_position: int = 0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Iterator[FeatureValues]:
    """Features of the rows of each of `sites`, then `OF_ITEMS`: (n,) in the order of `items.table`.

    progress: advances by one for each site. Cost: that of `row_features` and `lens_of`.
    """
    lens = lens_of(items, sites)
    for site in sites:
        answers, ratios = read_rows(items, site, first_position=first_position)
        features = features_of(answers, items.clusters, seed=seed) | ratios
        if isinstance(lens, ItemLens):
            features |= lens.features(site, answers)
        yield from (FeatureValues(name, site, values) for name, values in features.items())
        progress.advance()
    nothing = np.full(len(items.table), np.nan)
    for name in OF_ITEMS:
        if isinstance(lens, ItemLens):
            yield FeatureValues(name, None, lens.of_items()[name])
        else:
            yield FeatureValues(name, None, nothing, lens)
