"""The summaries of one site's cells: read, merged, and parted for the jackknife."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy

import numpy as np

from lpp.analyze.engine.bands import band_counts
from lpp.analyze.engine.held import Spreads
from lpp.analyze.engine.left_out import left_out
from lpp.analyze.engine.row_values import RowValues
from lpp.analyze.engine.spans import SpannedBands, read_in_spans
from lpp.analyze.engine.stored_moments import serves, stored_summaries
from lpp.analyze.engine.summary import Demand, Summary, summarize
from lpp.analyze.numerics.moments import Moments, Spread
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader


def site_summaries(
    reader: SiteReader, wanted: Mapping[Cell, Demand], rows: RowValues | None = None
) -> dict[Cell, Summary]:
    """The summary that is wanted of each cell of a site; `rows` is filled on the way.

    One read of its rows serves every prefix and number of prompts. Cells with a group left out
    cost one more read for each number of prompts, and products and d x d matrices to keep as in
    `left_out`. Moments that capture stored serve instead of rows where they can and cost less
    (`stored_moments`), unless `rows` are read anyway. Raises FormatError when the rows are not
    those that the prompts say.
    """
    if rows is None and serves(reader.run, wanted):
        return stored_summaries(reader, wanted)
    sizes: dict[int, list[Cell]] = defaultdict(list)
    for cell in sorted(wanted):
        sizes[cell.n_prompts].append(cell)
    ends = sorted({*sizes, *(rows.sizes if rows else ())})
    if not ends:
        return {}
    upper = sorted({cell.prefix for cell in wanted})
    bands = SpannedBands(reader.width, upper, band_counts(reader.lengths[: ends[-1]], upper))
    found: dict[Cell, Summary] = {}
    # Rows that are not finite give NaN, which says more than a warning would.
    with np.errstate(invalid="ignore", over="ignore"):
        for n_prompts in read_in_spans(reader, ends, bands, *([rows] if rows else [])):
            if sizes[n_prompts]:
                found |= _of_size(reader, n_prompts, wanted, bands)
    return found


def _of_size(
    reader: SiteReader, n_prompts: int, wanted: Mapping[Cell, Demand], bands: Spreads
) -> dict[Cell, Summary]:
    """The summaries of cells of `n_prompts`, which are in `bands`."""
    cells = [cell for cell in wanted if cell.n_prompts == n_prompts]
    found, kept = whole_summaries(reader, cells, wanted, bands)
    for cell, rest in left_out(reader, cells, kept, bands.upper):
        found[cell] = summarize(rest, wanted[cell])
    return found


def whole_summaries(
    reader: SiteReader, cells: Sequence[Cell], wanted: Mapping[Cell, Demand], bands: Spreads
) -> tuple[dict[Cell, Summary], dict[int, Spread]]:
    """The summaries of those of `cells` that leave nothing out, and the spreads that others need.

    cells: of one number of prompts, whose rows are in `bands`.
    """
    parted = {cell.prefix for cell in cells if cell.groups}
    kept: dict[int, Spread] = {}
    found: dict[Cell, Summary] = {}
    for prefix, spread in bands.spreads({cell.prefix for cell in cells}):
        cell = Cell(cells[0].n_prompts, prefix)
        reader.check(cell, spread.n)
        if cell in wanted:
            found[cell] = summarize(spread, wanted[cell])
        if prefix in parted:
            # the merge goes on in the same matrix
            kept[prefix] = deepcopy(spread) if isinstance(spread, Moments) else spread
    return found, kept
