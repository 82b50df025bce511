"""Features of items: of no site, from the rows of each site, and of the logit lens over blocks."""

from collections.abc import Iterator, Sequence

import numpy as np

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.features import item_features
from lpp.analyze.evaluations.lens import OF_ITEMS, ItemLens, lens_of
from lpp.analyze.evaluations.measure import FeatureValues
from lpp.analyze.evaluations.rows import features_of, read_rows
from lpp.store.progress import Progress


def features_of_run(
    items: EvaluatedItems, sites: Sequence[str], progress: Progress
) -> Iterator[FeatureValues]:
    """Features of the items that need no rows, of the rows of each of `sites`, then `OF_ITEMS`:
    (n,) in the order of `items.table`.

    progress: advances by one, and by one for each site. Cost: that of `item_features`, `read_rows`,
    `features_of` and `lens_of`.
    """
    first, seed = items.settings.skip_first, items.settings.seed
    for name, numbers in item_features(items, first_position=first).items():
        yield FeatureValues(name, None, numbers)
    progress.advance()
    lens = lens_of(items, sites)
    for site in sites:
        answers, ratios = read_rows(items, site, first_position=first)
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
