"""Spreads with a group of prompts left out, by subtraction.

Scatter matrices subtract as they merge. After a first read the spread of every prefix is known;
a second one takes the groups in turn, since a group is a run of prompts, and what is left of a
prefix without it is a d x d subtraction: the products of one more read in all, not of one for
each group. Memory, for p prefixes: their p matrices and the bands of one group, whatever the
number of groups: as much again as the first read takes. Where X(L) has fewer rows than columns
nothing is read again: the Gram matrix without a group is a part of the whole one.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lpp.analyze.engine.bands import band_counts
from lpp.analyze.engine.held import Spreads
from lpp.analyze.engine.spans import SpannedBands, read_in_spans
from lpp.analyze.numerics.moments import Gram, Moments, Spread
from lpp.analyze.runs.cells import Cell, Integers
from lpp.analyze.runs.site_reader import SiteReader


def left_out(
    reader: SiteReader, cells: Sequence[Cell], whole: Mapping[int, Spread], upper: Sequence[int]
) -> Iterator[tuple[Cell, Spread]]:
    """Each of `cells` that leaves a group out, with its spread, valid until the next is taken.

    cells: of one number of prompts. whole: the spread of each of their prefixes, nothing left
    out. upper: where the bands end that its rows lie in.
    """
    yield from without_rows(reader, cells, whole, upper)
    by_read: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.groups and isinstance(whole.get(cell.prefix), Moments):
            by_read[cell.groups].append(cell)
    for of_groups in by_read.values():
        yield from _subtracted(reader, of_groups, whole)


def without_rows(
    reader: SiteReader, cells: Sequence[Cell], whole: Mapping[int, Spread], upper: Sequence[int]
) -> Iterator[tuple[Cell, Gram]]:
    """Those of them whose whole spread is a Gram matrix: parts of it, and nothing is read."""
    for cell in cells:
        spread = whole.get(cell.prefix)
        if cell.groups and isinstance(spread, Gram):
            yield cell, spread.only(_stays(cell, upper, reader.lengths))


def without_group(
    cells: Sequence[Cell], leaving: Spreads, whole: Mapping[int, Spread]
) -> Iterator[tuple[Cell, Moments]]:
    """Those that one group is left out of, by subtraction. leaving: the bands of its rows."""
    of_prefix = {cell.prefix: cell for cell in cells}
    rest = Moments.empty(leaving.dim)
    for prefix, moments in leaving.moments(of_prefix):
        complete = whole[prefix]
        assert isinstance(complete, Moments)
        yield of_prefix[prefix], complete.without(moments, out=rest)


def _stays(cell: Cell, upper: Sequence[int], lengths: Integers) -> npt.NDArray[np.bool_]:
    """(N,) which rows of X(L) stay; rows lie by band, then by prompt, then by position."""
    first, end = cell.gap
    bounds = [0, *(edge for edge in upper if edge <= cell.prefix)]
    stays = np.ones(cell.n_prompts, dtype=bool)
    stays[first:end] = False
    below = np.minimum.outer(bounds, lengths[: cell.n_prompts])  # (bands + 1, P)
    return np.concatenate([np.repeat(stays, rows) for rows in np.diff(below, axis=0)])


def _subtracted(
    reader: SiteReader, cells: Sequence[Cell], whole: Mapping[int, Spread]
) -> Iterator[tuple[Cell, Moments]]:
    """The same from a second read, a group at a time."""
    groups: dict[tuple[int, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.gap].append(cell)
    every = [part.gap for part in cells[0].parts(cells[0].groups)]
    upper = sorted({cell.prefix for cell in cells})
    counts = np.max([band_counts(reader.lengths[a:b], upper) for a, b in every], axis=0)
    bands = SpannedBands(reader.width, upper, counts)
    stops = [end for _, end in every]
    for gap, _ in zip(every, read_in_spans(reader, stops, bands), strict=True):
        yield from without_group(groups[gap], bands, whole)
        bands.clear()
